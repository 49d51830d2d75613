"""What a population costs, beside what others make of it: tokens per second and peak memory, as ratios.

    python benchmarks/engine.py --quick --json                    # under three minutes
    python benchmarks/engine.py --json                            # all shapes: hours
    python benchmarks/engine.py --models random --shapes 64x64 --contenders base population

Contenders, all on the same prompts, candidates and new tokens, greedy, interleaved, medians of repeated runs:

    base         our engine, no adapter
    population   our engine, every row its own candidate's
    sequential   one candidate after another: its adapter set in PEFT, then generate of transformers
    peft_mixed   PEFT's mixed batch, `adapter_names`
    hf_generate  generate of transformers, no adapter

Making an engine and loading adapters into PEFT happen once in a run and are not timed. End-of-sequence tokens
are switched off: every row has the same length. The tokens of population, sequential and peft_mixed are
checked to be equal, and those of base and hf_generate.

The floor is the time of the base model's matrix products, those of the prompts included, at the rate of a
product of two 1024 x 1024 matrices, measured in turn with the contenders. With one thread all times are CPU
seconds of this process, so that other processes on the machine count less.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

CANDIDATES, RANK = 32, 8
SHAPES = [(prompts, tokens) for prompts in (4, 16, 64) for tokens in (16, 64, 256)]
QUICK = {"embedded": [(4, 16), (16, 16)], "random": [(4, 16)]}
QUICK_SECONDS = 20.0
"""A shape of --quick is repeated until so much time is gone, at least once, at most --repeats times."""
NEVER = 10**9
"""An end-of-sequence token that no model says."""


class NoSpace:
    """A search space without a single coordinate: the base model as it is."""

    dim = 0
    subspace_dim = None

    def shared_factors(self, population: Any, mean_D: Any) -> Any:
        return iter(())

    def scales(self, population: Any, mean_D: Any) -> tuple[torch.Tensor, torch.Tensor]:
        empty = torch.zeros(len(population), 0)
        return empty, empty


def embedded_model() -> Any:
    from evolign.config import ModelConfig
    from evolign.policy.base_model import load_base_model

    base = load_base_model(ModelConfig(name="embedded:arithmetic"))
    base.model.config.max_position_embeddings = 512  # speed is measured, not arithmetic
    return base


def random_model() -> Any:
    """33 million random parameters in Qwen2's architecture."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from evolign import embedded
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
    return BaseModel(model, AutoTokenizer.from_pretrained(embedded.path("tiny-random-qwen2")), "random")


def saved(base: Any, folder: Path) -> str:
    """`base` as a model folder that a recipe can name."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def questions(count: int) -> list[str]:
    """Prompts of one length."""
    return [f"{11 + i} + {89 - i} = ?\n" for i in range(count)]


class Bench:
    """One model with 32 candidates, as every contender wants them."""

    def __init__(self, base: Any, folder: Path) -> None:
        from evolign.config import EvolutionConfig
        from evolign.config.recipe import parse
        from evolign.policy.adapter import Adapter, Lora, read_adapter
        from evolign.policy.policy import Policy, load_policy
        from evolign.policy.spaces.singular_values import SingularValues
        from evolign.types import Population

        config = parse({"adapter": {"rank": RANK, "target_modules": "all-linear", "warm_start": None}})
        assert isinstance(config, EvolutionConfig)
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
        self.started = self.seconds = 0.0
        self._peft: Any = None
        self.bare = Policy(base, adapter, NoSpace())  # type: ignore[arg-type]
        self.population = Population(0.05 * noise.standard_normal((CANDIDATES, space.dim)))
        self.folders = [folder / f"c{n}" for n in range(CANDIDATES)]
        for theta_D, path in zip(self.population.theta_NK, self.folders, strict=True):
            space.decode(theta_D).write(path)

    def contenders(self, prompts: int, tokens: int) -> dict[str, Callable[[], np.ndarray]]:
        """One function per contender, which generates everything and returns tokens, (N * P, T).

        Whatever sets `self.started` anew is timed from there on.
        """
        texts = questions(prompts)
        ids = torch.tensor([self.base.encoder.encode(text) for text in texts], device=self.base.model.device)
        repeated = ids.repeat(CANDIDATES, 1)
        names = [f"c{n}" for n in range(CANDIDATES)]

        def sequential() -> np.ndarray:
            found = []
            for name in names:
                self.peft.set_adapter(name)
                found.append(_generate(self.peft, ids, tokens))
            return np.concatenate(found)

        def mixed() -> np.ndarray:
            rows = [name for name in names for _ in range(prompts)]
            return _generate(self.peft, repeated, tokens, adapter_names=rows)

        return {
            "base": lambda: self.ours(self.bare, texts, tokens),
            "population": lambda: self.ours(self.policy, texts, tokens),
            "sequential": sequential,
            "peft_mixed": mixed,
            "hf_generate": lambda: _generate(self.base.model, repeated, tokens),
        }

    def ours(self, policy: Any, texts: list[str], tokens: int) -> np.ndarray:
        """Our engine; its first passes, which notice what layers have in common, are not timed."""
        from evolign.engines.transformers.engine import TransformersEngine
        from evolign.types import Example, Sampling

        rows = [Example(id=str(i), prompt=text) for i, text in enumerate(texts)]
        with TransformersEngine(policy) as engine:
            engine.add_prompts(rows)
            names = [row.id for row in rows]
            engine.generate(self.population, [names[:1]] * CANDIDATES, Sampling(2, temperature=0.0))
            self.started = now()
            found = engine.generate(self.population, [names] * CANDIDATES, Sampling(tokens, temperature=0.0))
            self.seconds = now() - self.started
        return np.array([list(row) for row in found.token_ids_NPS[:, :, 0].flat])

    @property
    def peft(self) -> Any:
        """A copy of the model with all candidates' adapters in it, loaded once."""
        from peft import PeftModel

        if self._peft is None:
            model = copy.deepcopy(self.base.model)
            self._peft = PeftModel.from_pretrained(model, str(self.folders[0]), adapter_name="c0")
            for n, path in enumerate(self.folders[1:], start=1):
                self._peft.load_adapter(str(path), adapter_name=f"c{n}")
            self._peft.eval()
        return self._peft

    def measure(
        self, prompts: int, tokens: int, wanted: Iterable[str], repeats: int, limit: float
    ) -> dict[str, float]:
        """Tokens per second of the wanted contenders, and of the floor."""
        contenders = {name: run for name, run in self.contenders(prompts, tokens).items() if name in wanted}
        if {"sequential", "peft_mixed"} & contenders.keys():
            assert self.peft is not None  # loaded before anything is timed
        seconds: dict[str, list[float]] = {name: [] for name in [*contenders, "floor"]}
        said: dict[str, np.ndarray] = {}
        begun = time.perf_counter()
        for repeat in range(repeats):
            if repeat and time.perf_counter() - begun > limit:
                break
            for name, run in contenders.items():
                self.started, self.seconds = now(), 0.0
                said[name] = run()
                seconds[name].append(self.seconds or now() - self.started)
            length = len(self.base.encoder.encode("11 + 89 = ?\n"))
            seconds["floor"].append(self.floor(prompts, length, tokens))
        for one, other in EQUAL:
            if one in said and other in said:
                agree = float((said[one] == said[other]).all(axis=1).mean())
                assert agree > 0.98, f"{one} and {other} differ on {1 - agree:.1%} of the rows"
        total = CANDIDATES * prompts * tokens
        return {name: total / statistics.median(taken) for name, taken in seconds.items()}

    def floor(self, prompts: int, length: int, tokens: int) -> float:
        """Seconds, if only the matrix products of the linear layers took time, at a large product's rate."""
        head = self.base.model.get_output_embeddings().weight.numel()
        linear = [m for m in self.base.model.modules() if isinstance(m, torch.nn.Linear)]
        inner = sum(m.weight.numel() for m in linear) - head
        rows = CANDIDATES * prompts
        return float(2 * rows * ((length + tokens - 1) * inner + tokens * head) / matrix_rate())


def _generate(model: Any, ids_BT: torch.Tensor, tokens: int, **more: Any) -> np.ndarray:
    """New tokens by generate of transformers, greedy, none of which ends a row."""
    with torch.inference_mode():
        output = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=NEVER,
            **more,
        )
    new_tokens: np.ndarray = output[:, ids_BT.shape[1] :].cpu().numpy()
    return new_tokens


def matrix_rate() -> float:
    """Floating-point operations per second of a product of two 1024 x 1024 matrices, best of ten."""
    size = 1024
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(_timed(lambda: left @ right) for _ in range(10))


def now() -> float:
    """Seconds, once the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _timed(run: Callable[[], Any]) -> float:
    started = now()
    run()
    return now() - started


def peak_memory(policy: str) -> int:
    """Peak resident bytes of a process in which a contender generates 32 x 16 x 16 tokens, 33M model."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory-of", policy]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_of(policy: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(random_model(), Path(folder))
        _without_end(bench.base)
        bench.contenders(16, 16)[policy]()
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
EQUAL = [("population", "sequential"), ("population", "peft_mixed"), ("base", "hf_generate")]
CONTENDERS = ["base", "population", "sequential", "peft_mixed", "hf_generate"]
MODELS = {"embedded": embedded_model, "random": random_model}


def shape(text: str) -> tuple[int, int]:
    """`16x64` is 16 prompts and 64 new tokens."""
    prompts, tokens = text.split("x")
    return int(prompts), int(tokens)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shapes", nargs="+", type=shape, help="prompts x new tokens, as 16x64")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_model(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of the table per shape, printed as soon as it is there."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(MODELS[name](), Path(folder))
        _without_end(bench.base)
        for prompts, tokens in options.shapes or (QUICK[name] if options.quick else SHAPES):
            limit = QUICK_SECONDS if options.quick else float("inf")
            rates = bench.measure(prompts, tokens, options.contenders, options.repeats, limit)
            ratios = {key: rates[a] / rates[b] for key, (a, b) in RATIOS.items() if {a, b} <= rates.keys()}
            table.append({"model": name, "prompts": prompts, "tokens": tokens, "rates": rates} | ratios)
            print(f"{name:10} {CANDIDATES} x {prompts:2} x {tokens:3}  ", end="")
            print("  ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)
    return table


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        return memory_of(options.memory_of)
    print("vllm: needs an environment of its own, see benchmarks/vllm_lora.py")
    table = [row for name in options.models for row in measure_model(name, options)]
    worst = {key: min(row[key] for row in table if key in row) for key in RATIOS if key in table[0]}
    if not options.no_memory:
        worst["peak_memory_vs_base"] = peak_memory("population") / peak_memory("base")
    if options.json:
        print(json.dumps({"ratios": worst, "table": table, "threads": options.threads}))
    else:
        print(SimpleNamespace(**worst))


if __name__ == "__main__":
    main()
