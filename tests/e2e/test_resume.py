"""A run that is killed at any moment, and resumed, ends bit for bit where an uninterrupted one ends."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from evolign.commands.run import resume
from evolign.errors import RunError

Start = Callable[..., "subprocess.Popen[str]"]
Substance = Callable[[Path], dict[str, Any]]
PATIENCE_SECONDS = 120


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(pid: int) -> bool:
    """Whether the process ends within a few seconds; a zombie has ended."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def newest(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("*.npz")), default="none")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_killed_at_every_stage_and_resumed_is_uninterrupted(
    recipe: Path, reference: Path, tmp_path: Path, evolign: Start, substance: Substance
) -> None:
    run, trap, pid = tmp_path / "run", recipe.with_name("trap"), recipe.with_name("pid")

    def set_trap(signum: signal.Signals, split: str, count: int) -> None:
        pid.unlink(missing_ok=True)
        trap.write_text(f"{int(signum)} {split} {count}")

    # In the warm start.
    process = evolign("run", recipe, "--out", run)
    wait_for(lambda: "Warm start" in read(run / "log.txt"), process)
    with pytest.raises(RunError, match="in use by another evolign process"):
        resume(run)
    process.kill()
    process.communicate()
    assert not (run / "warm_start").exists() and newest(run) == "none"

    # After the first checkpoint, in the first generation, by kill -9: the reward's process ends as well.
    set_trap(signal.SIGKILL, "train", 1)
    process = evolign("resume", run)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL and ended(int(pid.read_text()))
    assert newest(run) == "00000000.npz" and (run / "warm_start").is_dir()

    # By Ctrl-C in the middle of a generation.
    set_trap(signal.SIGINT, "train", 2)  # generations take one or two calls: it is the first or the second
    process = evolign("resume", run)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130 and "Traceback" not in errors
    assert f"Interrupted. Resume it with: evolign resume {run}" in errors
    assert newest(run) in ("00000000.npz", "00000001.npz") and not trap.exists()

    # By SIGTERM in the middle of a validation.
    set_trap(signal.SIGTERM, "validation", 2)
    process = evolign("resume", run)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130 and f"evolign resume {run}" in errors and "Traceback" not in errors
    assert newest(run) == "00000001.npz"

    # In the middle of a later generation.
    set_trap(signal.SIGKILL, "train", 2)
    process = evolign("resume", run)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL and newest(run) < "00000004.npz"

    # In the final test, when all generations are done.
    set_trap(signal.SIGKILL, "test", 2)
    process = evolign("resume", run)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL and ended(int(pid.read_text()))
    assert newest(run) == "00000004.npz" and not (run / "result.json").exists()
    (run / "adapter.partial").mkdir()  # as if the kill had come a moment later, in the export
    (run / "adapter.partial" / "adapter_model.safetensors").write_bytes(b"half")

    process = evolign("resume", run)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    assert "Resuming after generation 4" in output
    expected = substance(reference)
    assert {name: value == expected[name] for name, value in substance(run).items()} == dict.fromkeys(
        expected, True
    )
    assert not list(run.rglob("*.partial"))


def test_resuming_a_finished_run_returns_at_once_and_changes_nothing(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / ".lock").unlink()
    monkeypatch.setattr("evolign.commands.run._load", None)  # no task and no model is loaded
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = resume(run)
    assert result.summary == json.loads((reference / "result.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def unfinished(reference: Path, run: Path, **model_or_task: dict[str, str]) -> Path:
    """A copy of the reference without its end, with other files named in its configuration."""
    shutil.copytree(reference, run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "adapter")
    for section, fields in model_or_task.items():
        for name in ("config.json", "provenance.json"):
            tree = json.loads((run / name).read_text())
            tree.get("config", tree)[section] |= fields
            (run / name).write_text(json.dumps(tree))
    return run


def test_a_corrupt_checkpoint_costs_one_generation_and_no_bit(
    reference: Path, tmp_path: Path, substance: Substance
) -> None:
    run = unfinished(reference, tmp_path / "run")
    checkpoint = run / "checkpoints" / "00000004.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:300])
    resume(run)
    warning = "Warning: checkpoint 00000004.npz is corrupt"
    assert warning in (run / "log.txt").read_text() and not os.path.exists(run / "result.json.partial")
    expected = substance(reference)
    assert {name: value == expected[name] for name, value in substance(run).items()} == dict.fromkeys(
        expected, True
    )


@pytest.mark.parametrize("what", ["model", "data"])
def test_a_run_does_not_go_on_with_another_model_or_other_data(
    what: str, recipe: Path, reference: Path, tmp_path: Path
) -> None:
    if what == "model":
        changed = {"model": {"name": str(save_tiny("qwen2", tmp_path / "model", seed=1))}}
    else:
        rows = (recipe.parent / "train.jsonl").read_text()
        (tmp_path / "train.jsonl").write_text(rows.replace("5 + 5", "5 + 6"))
        changed = {"task": {"train": str(tmp_path / "train.jsonl")}}
    run = unfinished(reference, tmp_path / "run", **changed)
    metrics = (run / "metrics.jsonl").read_text()
    with pytest.raises(
        RunError, match=f"the {what} differs from what the run in .* was started with; restore"
    ):
        resume(run)
    assert (run / "metrics.jsonl").read_text() == metrics and not (run / "result.json").exists()
