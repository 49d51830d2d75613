"""The self-test of an architecture that our tests do not cover, before a run trusts it.

Two prompts of different length are continued and read in one batch, with and without an adapter, and held
against plain forward passes of transformers and PEFT over one sequence each, without padding and cache.
It takes a second or two, and leaves the model as it was.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from evolign.config import AdapterConfig
from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.transformers.forward import check_cached, logits
from evolign.engines.transformers.kv_cache import in_place_cache
from evolign.engines.transformers.noise import gumbel
from evolign.errors import ConfigError, EvolignError, first_line
from evolign.policy.adapter import Adapter, Lora, read_adapter
from evolign.policy.base_model import BaseModel
from evolign.policy.policy import Policy
from evolign.policy.restoring import given_back
from evolign.policy.spaces.fixed import NO_ADAPTER, Fixed
from evolign.policy.warm_start import warm_start
from evolign.seeding import key
from evolign.types import Example, Population, Sampling

TESTED = frozenset({
    "qwen2", "llama", "mistral", "gemma", "gemma2", "gpt2", "opt", "gpt_neox",
    "qwen3_next", "qwen3_5_text", "lfm2", "falcon_h1", "jamba", "bamba", "falcon", "granite",
    "cohere",
})  # fmt: skip
"""The `model_type` of every architecture that tests hold against transformers and PEFT, token by token."""
TEXT = "1 + 2 = 3, and 12 + 30 = 42; so what is 7 + 8, and what is 5 * 6?\n"
NEW_TOKENS = 6
SAMPLES = 3
ROWS = 5
ENDS_AMONG = 3
"""One in so many tokens ends a completion, so that rows leave the batch one by one."""
SIZE_OF_B = 0.1
"""Standard deviation of the random B with which a new adapter is tried: about as strong as the layer."""
TOLERANCE = 2e-4
LOW_PRECISION = 0.2
"""Root mean square of the differences, in standard deviations of the logits. In 16 or fewer bits a mixture of
experts may choose others in a batch; a prompt that sees its padding is off by more."""


def is_tested(model: Any) -> bool:
    """Whether our tests cover the architecture of `model`, with the code of transformers."""
    return type(model).__module__.startswith("transformers.") and model.config.model_type in TESTED


def self_test(base: BaseModel, adapter: AdapterConfig | None = None) -> bool:
    """Raise ConfigError where the engine does not say and read what transformers does with `base`.

    `adapter` says which adapter is tried as well. Returns whether there was a test: tested architectures are
    passed over, and so are models without weights (on torch's meta device).
    """
    check_cached(base.model)
    if is_tested(base.model) or base.model.device.type == "meta":
        return False
    examples = _examples(base)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = _check_causal(base, examples[1])
            _check_stateless(base, examples[1])
            _check(base, NO_ADAPTER, examples, size, None, "in a batch with another prompt")
            if adapter is not None:
                with torch.inference_mode(False), tempfile.TemporaryDirectory() as folder:
                    tried = _tried(base, adapter, Path(folder))
                    with torch.inference_mode():
                        _check(base, tried, examples, size, Path(folder), "with an adapter")
    except EvolignError:
        raise
    except Exception as error:  # an architecture that nobody has tried may raise anything
        cause = f"{first_line(error)} ({type(error).__name__})"
        raise _failure(base, f"it raises {cause:.300}") from error
    return True


def _examples(base: BaseModel) -> list[Example]:
    """A short prompt and a longer one that fits the context."""
    room = base.encoder.context_length or len(TEXT)
    text = TEXT[: max(8, (room - 2 * NEW_TOKENS) // 2)]
    return [Example("self-test: short", text[:5]), Example("self-test: long", text)]


def _check_causal(base: BaseModel, example: Example) -> float:
    """Raise ConfigError where what comes after a token is read as well; returns the size of the logits."""
    ids = base.encoder.encode(example.prompt)
    half = len(ids) // 2
    whole_V, part_V = _alone(base.model, ids)[half - 1], _alone(base.model, ids[:half])[-1]
    if _off(base, (whole_V - part_V) / whole_V.std()):
        raise _failure(
            base,
            "what it says after a token depends on the tokens that follow, as in an encoder; give a causal "
            "language model",
        )
    return float(whole_V.std())


def _check_stateless(base: BaseModel, example: Example) -> None:
    """Raise ConfigError for states in the layers, which the engine cannot reorder as it does a cache."""
    model: Any = base.model
    ids_BT = torch.tensor([base.encoder.encode(example.prompt)] * ROWS, device=model.device)
    position_BT = torch.arange(ids_BT.shape[1], device=model.device).expand_as(ids_BT)
    logits(model, ids_BT, None, position_BT, last=1, past=in_place_cache(model.config))
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.ndim > 1 and len(value) == ROWS:
                raise _failure(base, f"it keeps a state outside its cache, {name}.{attribute}")


def _check(
    base: BaseModel,
    adapter: Adapter,
    examples: Sequence[Example],
    temperature: float,
    folder: Path | None,
    where: str,
) -> None:
    """Hold what the engine says and reads under `adapter` against the model with that in `folder`.

    A token is sampled as transformers would if it has the highest sum of logit and noise.
    """
    names = [example.id for example in examples for _ in range(SAMPLES)]
    keys = [key(0, "token", example.id, s) for example in examples for s in range(SAMPLES)]
    said, read_MT = _by_engine(base, adapter, examples, names, temperature)
    differences = []
    with nullcontext(base.model) if folder is None else _peft(base, folder) as model:
        for number, (name, ids) in enumerate(zip(names, said, strict=True)):
            logits_TV = _alone(model, [*base.prompts[name], *ids])[-len(ids) - 1 : -1]
            token_T1 = torch.tensor(ids, device=logits_TV.device)[:, None]
            read_T = torch.tensor(read_MT[number, : len(ids)], device=logits_TV.device)
            differences.append((logits_TV.log_softmax(-1).gather(1, token_T1)[:, 0] - read_T) / temperature)
            key_T = torch.tensor([keys[number]], device=logits_TV.device)
            noise_TV = torch.cat([gumbel(key_T, t, logits_TV.shape[1]) for t in range(len(ids))])
            sum_TV = logits_TV / temperature + noise_TV
            differences.append(sum_TV.amax(-1) - sum_TV.gather(1, token_T1)[:, 0])
    if off := _off(base, torch.cat(differences)):
        raise _failure(
            base, f"{where} it says and reads other tokens than alone ({off:.2g} standard deviations)"
        )


def _by_engine(
    base: BaseModel, adapter: Adapter, examples: Sequence[Example], names: list[str], temperature: float
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Completions of which some end early, all in one batch, and their log-probabilities."""
    sampling = Sampling(NEW_TOKENS, temperature, SAMPLES, noise_seed=0)
    policy = Policy(base, adapter, Fixed(adapter))
    with (
        given_back(base.model),
        TransformersEngine(policy, micro_batch_size=len(names)) as engine,
    ):
        engine.add_prompts(examples)
        base.model.generation_config.eos_token_id = list(range(0, len(base.tokenizer), ENDS_AMONG))
        rollouts = engine.generate(Population.of_mean(), [[example.id for example in examples]], sampling)
        said = list(rollouts.token_ids_NPS[0].flat)
        return said, engine.logprobs(Population.of_mean(), [0] * len(names), names, said)


def _alone(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits after every token of one sequence, float64, (T, V)."""
    ids_1T = torch.tensor([list(ids)], device=model.device)
    position_1T = torch.arange(len(ids), device=model.device)[None]
    return logits(model, ids_1T, None, position_1T, last=len(ids))[0].double()


def _off(base: BaseModel, differences: Tensor) -> float:
    """By how much they differ, where it is more than rounding; else 0."""
    found = float(differences.square().mean().sqrt())
    exact = base.model.dtype == torch.float32 and not getattr(base.model, "is_quantized", False)
    return 0.0 if found <= (TOLERANCE if exact else LOW_PRECISION) else found


def _tried(base: BaseModel, config: AdapterConfig, folder: Path) -> Adapter:
    """The adapter that `config` names, or a random one on its layers; it lies in `folder` afterwards."""
    if config.path is not None:
        adapter = read_adapter(base.model, config.path)
    else:
        warm_start(base, config.model_copy(update={"warm_start": None}), [], 0, folder)
        try:
            new = read_adapter(base.model, folder)
        except ConfigError as error:
            raise ConfigError(
                f"adapter.target_modules = {config.target_modules!r}: PEFT writes an adapter on these layers "
                f"of {type(base.model).__name__} that it does not read again; list other modules. It says: "
                f"{error}"
            ) from error
        generator = torch.Generator().manual_seed(0)
        modules = {
            name: Lora(lora.A, SIZE_OF_B * torch.randn(lora.B.shape, generator=generator), lora.scaling)
            for name, lora in new.modules.items()
        }
        adapter = Adapter(modules, new.config)
    adapter.write(folder)
    return adapter


@contextmanager
def _peft(base: BaseModel, folder: Path) -> Iterator[Any]:
    """The base model with PEFT's layers inside."""
    with given_back(base.model):
        peft_model = PeftModel.from_pretrained(base.model, str(folder)).eval()
        try:
            yield base.model
        finally:
            peft_model.unload()


def _failure(base: BaseModel, what: str) -> ConfigError:
    return ConfigError(
        f"model.name = {base.name!r}: {type(base.model).__name__} fails the self-test of architectures that "
        f"are not in the tested list: {what}; tested are {', '.join(sorted(TESTED))}"
    )
