"""What a population costs, beside what others make of it: tokens per second and peak memory, as ratios.

    python benchmarks/engine.py --quick --json        # three minutes: two shapes of each model
    python benchmarks/engine.py --json                # all shapes

Contenders, all on the same prompts, candidates and new tokens, greedy, interleaved, medians of repeated runs:

    base         our engine, no adapter
    population   our engine, every row its own candidate's
    sequential   one candidate after another: its adapter set in PEFT, then generate of transformers
    peft_mixed   PEFT's mixed batch, `adapter_names`
    hf_generate  generate of transformers, no adapter

The floor is the time that the matrix products of the base model would take at the rate that a large product
reaches. End-of-sequence tokens are switched off, so that every row has the same length. The tokens of
population, sequential and peft_mixed are checked to be equal.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

CANDIDATES, RANK = 32, 8
SHAPES = [(prompts, tokens) for prompts in (4, 16, 64) for tokens in (16, 64, 256)]
QUICK = [(4, 16), (16, 32)]
NEVER = 10**9
"""An end-of-sequence token that no model says."""


class NoSpace:
    """A search space without a single coordinate: the base model as it is."""

    dim = 0

    def shared_factors(self) -> Any:
        return iter(())

    def scales(self, population: Any) -> tuple[torch.Tensor, torch.Tensor]:
        empty = torch.zeros(len(population), 0)
        return empty, empty


def embedded_model() -> Any:
    from evolign.config import ModelConfig
    from evolign.policy.base_model import load_base_model

    return load_base_model(ModelConfig(name="embedded:arithmetic"))


def random_model() -> Any:
    """33 million random parameters in Qwen2's architecture."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from evolign.embedded.random_qwen2 import build_tokenizer
    from evolign.policy.base_model import BaseModel

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=2,
        )
    )
    model.generation_config.update(pad_token_id=0, eos_token_id=2)
    return BaseModel(model, build_tokenizer(), "random")


class Bench:
    """One model with 32 candidates, as every contender wants them."""

    def __init__(self, base: Any, folder: Path) -> None:
        from evolign.policy.adapter import Adapter, Lora, read_adapter
        from evolign.policy.policy import Policy, load_policy
        from evolign.policy.singular_values import SingularValues
        from evolign.recipe import parse
        from evolign.types import Population

        config = parse({"adapter": {"rank": RANK, "target_modules": "all-linear", "warm_start": None}})
        start = load_policy(config, base, [], folder / "new").adapter
        noise = np.random.default_rng(0)
        trained = {
            name: Lora(lora.A, torch.tensor(0.02 * noise.standard_normal(lora.B.shape)).float(), lora.scaling)
            for name, lora in start.modules.items()
        }
        Adapter(trained, start.config).write(folder / "start")
        adapter = read_adapter(base.model, folder / "start")
        space = SingularValues(adapter)
        self.base, self.policy = base, Policy(base, adapter, space)
        self.bare = Policy(base, adapter, NoSpace())  # type: ignore[arg-type]
        self.population = Population(0.05 * noise.standard_normal((CANDIDATES, space.dim)))
        self.folders = [folder / f"c{n}" for n in range(CANDIDATES)]
        for theta_D, path in zip(self.population.theta_ND, self.folders, strict=True):
            space.decode(theta_D).write(path)

    def contenders(self, prompts: int, tokens: int) -> dict[str, Callable[[], Any]]:
        """One function per contender, which generates everything and returns tokens, (N, P, T)."""
        from peft import PeftModel

        from evolign.engines.transformers import TransformersEngine
        from evolign.types import Example, Sampling

        texts = [f"{11 + i} + {89 - i} = ?\n" for i in range(prompts)]
        rows = [Example(id=str(i), prompt=text) for i, text in enumerate(texts)]
        sampling = Sampling(tokens, temperature=0.0)
        ids = torch.tensor([self.base.encode(text) for text in texts])
        repeated = ids.repeat(CANDIDATES, 1)
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

        def ours(policy: Any) -> np.ndarray:
            with TransformersEngine(policy) as engine:
                found = engine.generate(self.population, [rows] * CANDIDATES, sampling)
            return np.array([list(row) for row in found.token_ids_NPS[:, :, 0].flat])

        def hf(model: Any, given: torch.Tensor, **more: Any) -> np.ndarray:
            with torch.inference_mode():
                mask = torch.ones_like(given)
                output = model.generate(given, attention_mask=mask, eos_token_id=NEVER, **options, **more)
            return output[:, given.shape[1] :].numpy()

        def with_adapters(run: Callable[[Any, list[str]], np.ndarray]) -> np.ndarray:
            names = [f"c{n}" for n in range(CANDIDATES)]
            model = PeftModel.from_pretrained(self.base.model, str(self.folders[0]), adapter_name=names[0])
            for name, path in zip(names[1:], self.folders[1:], strict=True):
                model.load_adapter(str(path), adapter_name=name)
            started = time.perf_counter()
            tokens_BT = run(model.eval(), names)
            self.seconds_without_loading = time.perf_counter() - started
            model.unload()
            return tokens_BT

        def sequential(model: Any, names: list[str]) -> np.ndarray:
            found = []
            for name in names:
                model.set_adapter(name)
                found.append(hf(model, ids))
            return np.concatenate(found)

        def mixed(model: Any, names: list[str]) -> np.ndarray:
            return hf(model, repeated, adapter_names=[name for name in names for _ in range(prompts)])

        return {
            "base": lambda: ours(self.bare),
            "population": lambda: ours(self.policy),
            "sequential": lambda: with_adapters(sequential),
            "peft_mixed": lambda: with_adapters(mixed),
            "hf_generate": lambda: hf(self.base.model, repeated),
        }

    def measure(self, prompts: int, tokens: int, repeats: int) -> dict[str, float]:
        """Tokens per second of every contender, and of the floor."""
        contenders = self.contenders(prompts, tokens)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        said: dict[str, np.ndarray] = {}
        for _ in range(repeats):
            for name, run in contenders.items():
                self.seconds_without_loading = 0.0
                started = time.perf_counter()
                said[name] = run()
                taken = time.perf_counter() - started
                seconds[name].append(self.seconds_without_loading or taken)
        for other in ("sequential", "peft_mixed"):
            agree = float((said[other] == said["population"]).all(axis=1).mean())
            assert agree > 0.98, f"{other} says something else on {1 - agree:.1%} of the rows"
        total = CANDIDATES * prompts * tokens
        rates = {name: total / statistics.median(taken) for name, taken in seconds.items()}
        return rates | {"floor": self.floor()}

    def floor(self) -> float:
        """Tokens per second if only the base model's matrix products took time, at a large product's rate."""
        size = 1024
        left, right = torch.randn(size, size), torch.randn(size, size)
        best = min(_timed(lambda: left @ right) for _ in range(10))
        weights = sum(p.numel() for p in self.base.model.parameters() if p.ndim == 2)
        return (2 * size**3 / best) / (2 * weights)


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_memory(policy: str) -> int:
    """Peak resident bytes of a process in which a contender generates 32 x 16 x 64 tokens, 33M model."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory-of", policy]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_of(policy: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(random_model(), Path(folder))
        _without_end(bench.base)
        bench.contenders(16, 64)[policy]()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _without_end(base: Any) -> None:
    base.model.generation_config.eos_token_id = NEVER
    base.tokenizer.eos_token = None


RATIOS = {
    "population_vs_base": ("population", "base"),
    "population_vs_sequential": ("population", "sequential"),
    "population_vs_peft_mixed": ("population", "peft_mixed"),
    "base_vs_hf_generate": ("base", "hf_generate"),
    "population_vs_floor": ("population", "floor"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        return memory_of(options.memory_of)
    table = []
    for name, make in (("embedded", embedded_model), ("random 33M", random_model)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(make(), Path(folder))
            _without_end(bench.base)
            for prompts, tokens in QUICK if options.quick else SHAPES:
                rates = bench.measure(prompts, tokens, options.repeats)
                ratios = {ratio: rates[a] / rates[b] for ratio, (a, b) in RATIOS.items()}
                table.append({"model": name, "prompts": prompts, "tokens": tokens, "rates": rates} | ratios)
                print(f"{name:10} {CANDIDATES} x {prompts:2} x {tokens:3}  ", end="")
                print("  ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)
    worst = {ratio: min(row[ratio] for row in table) for ratio in RATIOS}
    worst["peak_memory_vs_base"] = peak_memory("population") / peak_memory("base")
    if options.json:
        print(json.dumps({"ratios": worst, "table": table, "threads": options.threads}))
    else:
        print(SimpleNamespace(**worst))


if __name__ == "__main__":
    main()
