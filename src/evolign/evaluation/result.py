"""What result.json says, whatever the method: metrics of the start and of the result, and what they cost."""

from collections.abc import Mapping
from typing import Any

from evolign.config import Config
from evolign.evaluation.evaluate import Evaluation
from evolign.runs.directory import RunDir
from evolign.runs.provenance import peak_memory_bytes
from evolign.tasks.base import Task


def reported_split(task: Task) -> str:
    """The split that results are reported on: test, or validation where the task has no test rows."""
    return "test" if task.test else "validation"


def keep_samples(
    config: Config, run: RunDir, evaluation: Evaluation, stamp: Mapping[str, Any], per_decoding: bool = True
) -> None:
    """Append the first few completions of an evaluation to samples.jsonl, those of each decoding."""
    count = config.evaluation.num_samples_kept
    samples = evaluation.samples
    if per_decoding:
        names = sorted({sample["decoding"] for sample in samples})
        by_name = ([s for s in samples if s["decoding"] == name] for name in names)
        kept = [sample for group in by_name for sample in group[:count]]
    else:
        kept = samples[:count]
    run.append("samples.jsonl", [dict(stamp) | sample for sample in kept])


def summarise(
    config: Config,
    task: Task,
    found: Mapping[str, Mapping[str, float]],
    metric: str,
    **facts: Any,
) -> dict[str, Any]:
    """The contents of result.json: `found` holds the metrics of "baseline" and "final"."""
    split = reported_split(task)
    return {
        "method": config.method,
        "task": config.task.name,
        "model": config.model.name,
        "seed": config.seed,
        "metric": metric,
        "split": split,
        "num_examples": len(getattr(task, split)),
        "baseline": found["baseline"],
        "final": found["final"],
        **facts,
        "peak_memory_bytes": peak_memory_bytes(),
    }
