"""Training that is killed at any moment, and resumed, ends bit for bit where uninterrupted training ends."""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import processes, run_file, write_recipe

from evolign.commands.run import resume, run
from evolign.config.recipe import load
from evolign.errors import RunError
from evolign.runs.directory import read_rows
from evolign.runs.progress import Silent

PATIENCE_SECONDS = 120

KILLED: dict[str, dict[str, Any]] = {
    "sft": {"dropout": True, "training": {"max_steps": 6, "micro_batch_size": 2}},
    "eso": {"adapter": None, "training": {"max_steps": 6, "learning_rate": 1e-3}},
    "grpo": {"training": {"max_steps": 6}, "objective": {"iterations": 2, "beta": 0.1}},
    "ppo": {"dropout": True, "training": {"max_steps": 8}, "objective": {"epochs": 2, "mini_batches": 2}},
    "dpo": {"training": {"max_steps": 6}, "space": {"alpha": 1.0}},
    "reward_model": {"training": {"max_steps": 6}},
}
"""One recipe for each class of trainer: LoRA, all weights, singular values; with and without dropout (TRL
turns it off for pairs)."""


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in row if not name.startswith(("seconds", "peak_memory"))}


def substance(path: Path) -> dict[str, Any]:
    """All that two equal runs have in common, bit for bit: everything but times and memory."""
    weights = sorted((path / ("model" if (path / "model").is_dir() else "adapter")).glob("*.safetensors"))
    checkpoints = sorted((path / "checkpoints").rglob("*.safetensors"))
    return {
        "metrics": [lasting(row) for row in read_rows(path / "metrics.jsonl")],
        "samples": (path / "samples.jsonl").read_text(),
        "weights": {file.name: file.read_bytes() for file in weights},
        "checkpoints": {str(f.relative_to(path)): f.read_bytes() for f in checkpoints},
        "result": lasting(json.loads((path / "result.json").read_text())),
    }


def same(path: Path, reference: Path) -> dict[str, bool]:
    expected = substance(reference)
    return {name: value == expected[name] for name, value in substance(path).items()}


ALL_SAME = dict.fromkeys(("metrics", "samples", "weights", "checkpoints", "result"), True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`reference(method)` is the folder with the recipe and `run`, its uninterrupted run. Read only."""
    root = tmp_path_factory.mktemp("reference")

    def made(method: str) -> Path:
        folder = root / method
        if not folder.is_dir():
            folder.mkdir()
            recipe = write_recipe(folder / "recipe.json", method, **KILLED[method])
            run(load(recipe), folder / "run", progress=Silent())
        return folder

    return made


def killed_after(recipe: Path, path: Path, rows: int, seconds: float) -> None:
    """Run a recipe in a process of its own and kill it when it has made so many rows, and so much later."""
    process = processes().Process(target=run_file, args=(recipe, path))
    process.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    metrics = path / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= rows):
        assert process.exitcode is None and time.monotonic() < deadline, process.exitcode
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()


@pytest.mark.parametrize("method", KILLED)
def test_killed_at_a_random_moment_and_resumed_is_uninterrupted(
    method: str, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, path = reference(method), tmp_path / "run"
    moment = (random.randint(0, KILLED[method]["training"]["max_steps"]), random.uniform(0, 0.1))
    killed_after(folder / "recipe.json", path, *moment)
    progress = Silent()
    resume(path, progress=progress)
    assert same(path, folder / "run") == ALL_SAME, (moment, progress.said)
    names = {file.name for file in (path / "checkpoints").iterdir()}
    assert len([name for name in names if name.startswith("checkpoint-")]) == 2
    assert not list(path.rglob("*.partial"))


def unfinished(reference: Path, path: Path) -> Path:
    """A copy of a run without its end."""
    shutil.copytree(reference / "run", path)
    (path / "result.json").unlink()
    shutil.rmtree(path / ("model" if (path / "model").is_dir() else "adapter"))
    return path


def newest_first(path: Path) -> list[Path]:
    found = (path / "checkpoints").glob("checkpoint-*")
    return sorted(found, key=lambda folder: -int(folder.name.split("-")[1]))


@pytest.mark.parametrize("method", ["ppo", "reward_model"])
def test_killed_in_the_final_test_and_resumed_is_uninterrupted(
    method: str, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = unfinished(reference(method), tmp_path / "run")
    (path / "adapter.partial").mkdir()  # as if the kill had come a moment later, in the export
    samples = path / "samples.jsonl"
    kept = [line for line in samples.read_text().splitlines(keepends=True) if '"final"' not in line]
    samples.write_text("".join(kept) + '{"step": 6, "stage": "fin')
    progress = Silent()
    resume(path, progress=progress)
    assert not any("Resuming" in line for line in progress.said)  # there is nothing left to train
    assert same(path, reference(method) / "run") == ALL_SAME


def test_a_checkpoint_that_was_being_written_does_not_count(
    reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = unfinished(reference("sft"), tmp_path / "run")
    newest, before = newest_first(path)
    (newest / "evolign.json").unlink()
    (newest / "trainable.safetensors").write_bytes(b"half")
    progress = Silent()
    resume(path, progress=progress)
    assert progress.said[1].startswith("Resuming after step 4") and before.name == "checkpoint-4"
    assert not any("Warning" in line for line in progress.said)
    assert same(path, reference("sft") / "run") == ALL_SAME


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.pt", "rng_state.pth", "evolign.json"])
def test_a_corrupt_checkpoint_costs_its_steps_and_no_bit(
    name: str, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = unfinished(reference("sft"), tmp_path / "run")
    file = newest_first(path)[0] / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if name != "evolign.json" else data[: len(data) // 2])
    progress = Silent()
    resume(path, progress=progress)
    assert progress.said[0] == (
        "Warning: checkpoint checkpoint-6 is corrupt; set aside as corrupt-checkpoint-6"
    )
    assert "Resuming after step 4." in progress.said
    shutil.rmtree(path / "checkpoints" / "corrupt-checkpoint-6")
    assert same(path, reference("sft") / "run") == ALL_SAME


def test_when_all_checkpoints_are_corrupt_the_way_out_is_told(
    reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = unfinished(reference("sft"), tmp_path / "run")
    for folder in newest_first(path):
        (folder / "trainable.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"all 2 checkpoints of .* are corrupt; start again with `evolign run"):
        resume(path, progress=Silent())


def test_the_best_weights_belong_to_a_checkpoint(reference: Callable[[str], Path], tmp_path: Path) -> None:
    path = unfinished(reference("sft"), tmp_path / "run")
    best = {json.loads((f / "evolign.json").read_text())["state"]["best_step"] for f in newest_first(path)}
    assert {file.name for file in (path / "checkpoints").glob("best-*")} == {
        f"best-{step}.safetensors" for step in best
    }
    for file in (path / "checkpoints").glob("best-*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match="all 2 checkpoints"):
        resume(path, progress=Silent())


def test_an_older_checkpoint_that_is_corrupt_does_not_stop_a_run(
    reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = unfinished(reference("sft"), tmp_path / "run")
    newest, older = newest_first(path)
    (newest / "evolign.json").unlink()
    shutil.copytree(older, older.with_name("checkpoint-2"))  # the one before, with a damaged seal
    (older.with_name("checkpoint-2") / "evolign.json").write_text("{")
    resume(path, progress=Silent())
    assert same(path, reference("sft") / "run") == ALL_SAME


def test_resuming_a_finished_run_returns_at_once_and_changes_nothing(
    reference: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    shutil.copytree(reference("sft") / "run", path)
    monkeypatch.setattr("evolign.commands.run._load", None)  # no task and no model is loaded
    files = [file for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
    before = {file: file.stat().st_mtime_ns for file in files}
    result = resume(path)
    assert result.summary == json.loads((path / "result.json").read_text())
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert result.weights == path / "adapter"


def test_the_config_of_a_finished_run_reproduces_it_bit_for_bit(
    reference: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = reference("ppo")
    run(load(folder / "run" / "config.json"), tmp_path / "again", progress=Silent())
    assert same(tmp_path / "again", folder / "run") == ALL_SAME


def test_another_seed_is_another_run(reference: Callable[[str], Path], tmp_path: Path) -> None:
    folder = reference("sft")
    run(load(folder / "recipe.json", ["seed=4"]), tmp_path / "other", progress=Silent())
    assert not same(tmp_path / "other", folder / "run")["weights"]
