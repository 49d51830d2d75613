"""Alarms come once each while a run goes on, with advice, and only where there is reason."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolign.runs import alarms
from evolign.runs.alarms import Alarms
from evolign.runs.progress import Silent

GIB = 2**30


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 10 GiB of memory and of disk."""
    monkeypatch.setattr(alarms, "memory_limit_bytes", lambda: 10 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * GIB))


def raised(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """What is said while `rows` are recorded."""
    progress = Silent()
    watched = Alarms(folder, progress)
    for row in rows:
        watched.record(row)
    return progress.said


def shares(name: str, *values: float) -> list[dict[str, Any]]:
    return [{"generation": i, name: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (shares("truncated", 0.1, 0.3, 0.5), "raise sampling.max_new_tokens"),
        (shares("eval/truncated_greedy", 0.0, 0.1, 0.26), "(eval/truncated_greedy)"),
        (shares("informative", 0.5, 0, 0, 0, 0), "Raise sampling.samples_per_prompt"),
        (shares("peak_memory_bytes", 5 * GIB, 9.5 * GIB, 9.6 * GIB), "lower engine.memory_gb"),
    ],
)
def test_an_alarm_is_raised_once_with_advice(rows: list[dict[str, Any]], advice: str, tmp_path: Path) -> None:
    [warning] = raised(tmp_path, rows)
    assert warning.startswith("Warning: ") and advice in warning


@pytest.mark.parametrize(
    "rows",
    [
        shares("truncated", 0.4, 0.6, 0.7),  # above a quarter, but never doubled
        shares("truncated", 0.05, 0.2, 0.25),  # more than doubled, but rare
        shares("informative", 0, 0, 0.1, 0, 0),
        shares("peak_memory_bytes", 8 * GIB),
        shares("loss", 1.0, 2.0),
    ],
)
def test_there_is_no_alarm_without_a_reason(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert raised(tmp_path, rows) == []


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 2))
    [warning] = raised(tmp_path, shares("loss", 1.0, 2.0))
    assert "has 512 MiB left" in warning and "evolign resume" in warning


def test_a_resumed_run_does_not_repeat_an_alarm_and_remembers_the_start(tmp_path: Path) -> None:
    rows = shares("truncated", 0.2, 0.5, 0.6)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert raised(tmp_path, rows[2:]) == []
    metrics.write_text(json.dumps(rows[0]) + "\n")
    assert len(raised(tmp_path, rows[2:])) == 1


def test_everything_else_is_shown_as_it_was(tmp_path: Path) -> None:
    seen: list[object] = []

    class Seen(Silent):
        def record(self, row: Mapping[str, Any]) -> bool:  # type: ignore[override]  # Silent asks nothing
            return bool(row["loss"] < 1)

        def begin(self, total: int, max_minutes: float | None = None) -> None:
            seen.append(("begin", total, max_minutes))

        def phase(self, name: str, total: int | None = None, unit: str = "") -> Any:
            seen.append(("phase", name, total, unit))
            return super().phase(name, total, unit)

    watched = Alarms(tmp_path, Seen())
    watched.begin(3, 1.5)
    assert [watched.record(row) for row in shares("loss", 2.0, 0.5)] == [False, True]
    with watched.phase("reading", 4, "rows") as phase:
        phase.advance(1)
    assert seen == [("begin", 3, 1.5), ("phase", "reading", 4, "rows")]
