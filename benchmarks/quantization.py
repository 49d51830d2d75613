"""Weights in float32, bfloat16, int8 and int4: what they occupy, and how accurate an ESSA run over them is.

    python benchmarks/quantization.py --json                  # three seeds, needs evolign[quant]
    python benchmarks/quantization.py --seeds 1 --generations 4

The run is recipes/quickstart.yaml, as the ESSA paper's Table 2 compares precisions: warm
start, evolution and evaluation all happen over the weights named. Memory is also that of a random model of 33
million parameters, Qwen2's architecture, which is loaded but not run.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from engine import random_model, saved

from evolign.commands.run import run
from evolign.config import ModelConfig
from evolign.config.recipe import load
from evolign.engines.transformers.memory import weight_bytes
from evolign.policy.base_model import load_base_model

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
PRECISIONS: dict[str, dict[str, str | None]] = {
    "float32": {"dtype": "float32", "quantization": None},
    "bfloat16": {"dtype": "bfloat16", "quantization": None},
    "int8": {"dtype": "float32", "quantization": "int8"},
    "int4": {"dtype": "float32", "quantization": "int4"},
    "int8, bfloat16": {"dtype": "bfloat16", "quantization": "int8"},
    "int4, bfloat16": {"dtype": "bfloat16", "quantization": "int4"},
}


def memory(name: str, precision: dict[str, Any]) -> int:
    """Bytes of the weights of model `name`."""
    return weight_bytes(load_base_model(ModelConfig(name=name, device="cpu", **precision)).model)


def accuracy(precision: dict[str, Any], seed: int, generations: int, out: Path) -> dict[str, float]:
    """Test accuracy before and after evolution, sampled, and the seconds that evolution took."""
    changes = [f"model.{key}={'null' if value is None else value}" for key, value in precision.items()]
    changes += [f"seed={seed}", f"evolution.generations={generations}", "model.device=cpu"]
    run(load(RECIPE, changes), out)
    result = json.loads((out / "result.json").read_text())
    return {
        "before": result["baseline"]["accuracy_sampled"],
        "after": result["final"]["accuracy_sampled"],
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        large = saved(random_model(), Path(scratch) / "33M")
        for name, precision in PRECISIONS.items():
            runs = [
                accuracy(precision, seed, options.generations, Path(scratch) / f"{len(table)}-{seed}")
                for seed in range(options.seeds)
            ]
            row: dict[str, Any] = {
                "precision": name,
                "embedded_bytes": memory("embedded:arithmetic", precision),
                "random_33M_bytes": memory(large, precision),
                "runs": runs,
            } | {key: statistics.mean(r[key] for r in runs) for key in ("before", "after", "seconds")}
            table.append(row)
            print(
                f"{name:15} {row['embedded_bytes'] / 2**20:5.2f} MiB  "
                f"{row['random_33M_bytes'] / 2**20:6.1f} MiB"
                f"  before {row['before']:.3f}  after {row['after']:.3f}  {row['seconds']:.0f} s  "
                + " ".join(f"{r['after']:.3f}" for r in runs),
                flush=True,
            )
    if options.json:
        print(json.dumps({"generations": options.generations, "table": table}))


if __name__ == "__main__":
    main()
