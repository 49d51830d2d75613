"""The contenders of engine.py on a GPU, with models shaped like Qwen2.5-0.5B and 7B and random weights.

    python benchmarks/gpu.py --json                                   # one GPU with 80 GB; not run so far
    python benchmarks/gpu.py --device cpu --models toy --prompts 2 --tokens 4 --repeats 1

bfloat16 on a GPU. Beside base, population, sequential, peft_mixed and hf_generate:

    hf_static    generate of transformers with a static cache, whose decoding step it compiles (CUDA graphs)
    hf_batch     generate_batch of transformers: continuous batching with a paged cache

A contender that fails (memory, a missing kernel) is reported with its error and left out. Two ceilings: the
bytes that decoding must read (weights at every step of a micro-batch, and each row's keys and values) at the
rate of a large copy, and the floating-point operations of the linear layers at the rate of a large product.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import CANDIDATES, NEVER, Bench, _generate, _without_end, now

SHARED = {"vocab_size": 151_936, "max_position_embeddings": 4096}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        **SHARED,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7B": {
        **SHARED,
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "toy": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


def random_base(name: str, device: torch.device) -> Any:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from evolign import embedded
    from evolign.policy.base_model import BaseModel

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = Qwen2Config(pad_token_id=0, eos_token_id=2, dtype=dtype, **SHAPES[name])
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(dtype)
    model.generation_config.update(pad_token_id=0, eos_token_id=2)
    return BaseModel(model, AutoTokenizer.from_pretrained(embedded.path("tiny-random-qwen2")), "random")


def contenders(bench: Bench, prompts: int, tokens: int) -> dict[str, Callable[[], Any]]:
    """Those of engine.py, a static cache and continuous batching."""
    model = bench.base.model
    rows = [bench.base.encoder.encode(f"{11 + i} + {89 - i} = ?\n") for i in range(prompts)] * CANDIDATES
    ids_BT = torch.tensor(rows, device=model.device)

    def batched() -> None:
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=NEVER, pad_token_id=0
        )
        found = model.generate_batch(inputs=rows, generation_config=config, progress_bar=False)
        lengths = {len(output.generated_tokens) for output in found.values()}
        assert lengths == {tokens}, f"generate_batch made {lengths} tokens"

    return bench.contenders(prompts, tokens) | {
        "hf_static": lambda: _generate(model, ids_BT, tokens, cache_implementation="static"),
        "hf_batch": batched,
    }


def measure(bench: Bench, prompts: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens per second of every contender, after one warm-up run each, or why it failed."""
    rates: dict[str, Any] = {}
    for name, run in contenders(bench, prompts, tokens).items():
        taken = []
        try:
            for repeat in range(repeats + 1):
                bench.started, bench.seconds = now(), 0.0
                run()
                if repeat or not repeats:
                    taken.append(bench.seconds or now() - bench.started)
        except Exception as error:  # whatever a contender raises is its result
            rates[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        else:
            rates[name] = CANDIDATES * prompts * tokens / statistics.median(taken)
        print(f"  {name:12} {rates[name]}", flush=True)
    return rates


def ceilings(bench: Bench, prompts: int, tokens: int) -> dict[str, float]:
    """Tokens per second if reading memory, or multiplying matrices, were all that took time."""
    model, rows = bench.base.model, CANDIDATES * prompts
    length = len(bench.base.encoder.encode("11 + 89 = ?\n"))
    config, weight = model.config, next(model.parameters())
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    head_size = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * weight.itemsize
    seen = sum(length + step for step in range(tokens))
    read = tokens * sum(linear) * weight.itemsize + rows * seen * per_token
    operations = 2 * rows * (length + tokens) * sum(linear)
    size = 8192 if weight.device.type == "cuda" else 512
    a = torch.randn(size, size, device=weight.device, dtype=weight.dtype)
    out = torch.empty_like(a)
    copying = min(_seconds(lambda: out.copy_(a)) for _ in range(10))
    multiplying = min(_seconds(lambda: torch.mm(a, a, out=out)) for _ in range(10))
    bandwidth, rate = 2 * a.numel() * a.itemsize / copying, 2 * size**3 / multiplying
    return {"memory": rows * tokens * bandwidth / read, "matmul": rows * tokens * rate / operations}


def _seconds(run: Callable[[], Any]) -> float:
    started = now()
    run()
    return now() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["0.5B", "7B"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU here; try --device cpu --models toy")
    results = {}
    for name in options.models:
        print(f"{name}: {CANDIDATES} x {options.prompts} x {options.tokens}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(random_base(name, torch.device(options.device)), Path(folder))
            _without_end(bench.base)
            rates = measure(bench, options.prompts, options.tokens, options.repeats)
            limits = ceilings(bench, options.prompts, options.tokens)
        ours = {key: rates[key] for key in ("base", "population") if not isinstance(rates[key], str)}
        shares = {f"{key}_of_{what}": ours[key] / limit for key in ours for what, limit in limits.items()}
        print({key: round(float(np.round(value, 3)), 3) for key, value in shares.items()})
        results[name] = {"rates": rates, "ceilings": limits, "shares": shares}
    if options.json:
        print(json.dumps({"device": options.device, "results": results}))


if __name__ == "__main__":
    main()
