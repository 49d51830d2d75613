"""What every tracker promises: a run that was killed is joined, and each figure is there once."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tracked

from evolign.tracking import TRACKERS

STORES_FILES = {"trackio", "wandb"}
LAST = 4


def session(run: Path, tracker: str, *arguments: object, status: int = 0) -> str:
    """What `tracked.py` prints."""
    settings = {
        "TRACKIO_DIR": str(run.parent / "store"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(run.parent),
    }
    command = [sys.executable, tracked.__file__, str(run), tracker, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout


def rewind(run: Path, rows: int) -> None:
    """Cut the files that grow, as a run does that is resumed from a checkpoint."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[:rows]))


@pytest.fixture(scope="module", params=TRACKERS)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a tracker holds of a run that was killed after generation 2, resumed from 0, and finished."""
    name = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'evolign[trackers]'")
    run = tmp_path_factory.mktemp(name) / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"format": 1, "seed": 3, "model": {"name": "m"}}))
    session(run, name, 0, 2, "kill", status=-9)
    rewind(run, 1)
    output = session(run, name, 1, LAST, "finish").splitlines()
    found: dict[str, Any] = json.loads(next(line for line in output if line.startswith("{")))
    return {"name": name, "marks": json.loads((run / "tracking.json").read_text()), **found}


def test_every_figure_is_there_once_at_its_step(held: dict[str, Any]) -> None:
    points = sorted([step, tag, value] for step, tag, value in held["points"] if "samples" not in tag)
    rows = [(step, tracked.row(step)) for step in range(LAST + 1)]
    figures = [[step, tag, row[tag]] for step, row in rows for tag in ("fitness_mean", "eval/reward")]
    result = [[LAST, f"{stage}/reward", found["reward"]] for stage, found in tracked.RESULT.items()]
    assert points == sorted(figures + result)


def test_the_samples_are_a_table(held: dict[str, Any]) -> None:
    for step in range(LAST + 1):
        assert held["tables"].count(f"said {step}") >= 1
    assert "ask" in held["tables"]


def test_the_result_is_an_artifact_where_the_tracker_stores_files(held: dict[str, Any]) -> None:
    stored = {"config.json", "result.json"} if held["name"] in STORES_FILES else set()
    assert {*held["files"]} & {"config.json", "result.json"} == stored


def test_the_run_directory_says_that_all_was_sent(held: dict[str, Any]) -> None:
    mark = held["marks"][held["name"]]
    assert (mark["metrics"], mark["samples"], mark["finished"]) == (LAST + 1, LAST + 1, True)
    assert (mark["project"], mark["name"]) == (tracked.PROJECT, tracked.NAME)
