"""Run directories as the methods write them, without a model: what `evolign compare` reads."""

import json
from pathlib import Path
from typing import Any

FACTS = {
    "python": "3.12.1",
    "versions": {"evolign": "0.1.0", "torch": "2.13.0"},
    "revision": "a" * 40,
    "processor": "A processor",
    "cores": 2,
    "gpus": [],
    "fingerprints": {"model": "m", "data": "d"},
}


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def samples(completion: str, ids: str = "abc", **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "step": 9, "split": "test", "stage": stage, "id": name, "decoding": "greedy",
            "prompt": f"prompt {name}", "completion": f"{stage} {completion}",
            "score": float(stage == "final"),
        } | changes
        for stage in ("baseline", "final")
        for name in ids
    ]  # fmt: skip


def make_run(
    root: Path,
    name: str,
    method: str = "evolution",
    seed: int = 0,
    values: tuple[float, ...] = (0.2, 0.5, 0.8),
    completions: tuple[float, ...] | None = None,
    config: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    kept: list[dict[str, Any]] | None = None,
) -> Path:
    """A finished run in `root / name`: `values` are its validations, the last one its final metric."""
    path = root / name
    path.mkdir(parents=True)
    spent = completions or tuple(100.0 * i for i in range(len(values)))
    unit = "generation" if method == "evolution" else "step"
    rows = [
        {
            unit: i, "completions": spent[i], "generated_tokens": 10 * spent[i], "seconds": 2.0 * i,
            "eval/accuracy_greedy": y, "eval/accuracy_greedy_low": max(0, y - 0.05),
            "eval/accuracy_greedy_high": min(1, y + 0.05), "eval/tokens_greedy": 7.0,
        }
        for i, y in enumerate(values)
    ]  # fmt: skip
    start, final = (
        {"accuracy_greedy": y, "accuracy_greedy_low": y - 0.04, "accuracy_greedy_high": y + 0.04}
        for y in (values[0], values[-1])
    )
    tree: dict[str, Any] = {
        "format": 1, "method": method, "seed": seed, "model": {"name": "tiny"},
        "task": {"name": "arithmetic", "reward": "exact"}, "sampling": {"max_new_tokens": 8},
        "evaluation": {"select_by": "greedy"},
    } | (config or {})  # fmt: skip
    summary = {
        "method": method, "task": "arithmetic", "model": "tiny", "seed": seed, "metric": "accuracy",
        "split": "test", "num_examples": 100, "baseline": start, "final": final,
        f"{unit}s": len(values) - 1, "completions": spent[-1], "validation_completions": 30,
        "generated_tokens": 10 * spent[-1], "seconds": 2.0 * (len(values) - 1),
        "peak_memory_bytes": 2**29,
    } | (result or {})  # fmt: skip
    (path / "config.json").write_text(json.dumps(tree))
    (path / "metrics.jsonl").write_text(jsonl(rows))
    (path / "samples.jsonl").write_text(jsonl(samples(f"by {name}") if kept is None else kept))
    (path / "provenance.json").write_text(json.dumps(FACTS | (facts or {})))
    (path / "result.json").write_text(json.dumps(summary))
    return path
