"""A run's rows go to its trackers once each, whatever happens to the run, and whatever happens to them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from comparison_runs import make_run
from training_runs import task, tree

import evolign
from evolign import tracking
from evolign.config import CONFIGS
from evolign.config.recipe import dump, parse
from evolign.errors import ConfigError, RunError
from evolign.runs.directory import RunDir
from evolign.runs.progress import Silent
from evolign.tracking.base import Table, TrackedRun
from evolign.tracking.follower import Follower


class Paper:
    """A tracker on paper; `broken` says what of it fails."""

    runs: ClassVar[dict[str, dict[str, Any]]] = {}
    broken: ClassVar[set[str]] = set()

    def __init__(self, run: TrackedRun) -> None:
        self.fail("open")
        self.held, self.where = None, "on paper"
        assert run.joins == (run.id in self.runs)
        new = {"name": run.name, "points": [], "tables": [], "files": [], "ends": []}
        self._run = self.runs.setdefault(run.id, new)

    def fail(self, what: str) -> None:
        if what in self.broken:
            raise OSError(f"no paper to {what}")

    def log(self, step: int, metrics: Mapping[str, float], samples: Mapping[str, Table]) -> None:
        self.fail("log")
        self._run["points"] += [(step, name) for name in metrics]
        self._run["tables"] += [(name, row["completion"]) for name, table in samples.items() for row in table]

    def keep(self, files: Sequence[Path]) -> None:
        self.fail("keep")
        self._run["files"] += [file.name for file in files]

    def close(self, finished: bool) -> None:
        self._run["ends"].append(finished)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> type[Paper]:
    """The tracker `wandb`, on paper."""
    monkeypatch.setattr(tracking, "resolve_name", lambda target: Paper)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.setattr(Paper, "runs", {})
    monkeypatch.setattr(Paper, "broken", set())
    return Paper


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: three rows, and the samples of its final test."""
    path = make_run(tmp_path, "sums")
    (path / "config.json").write_text(dump(parse({})))
    (path / "adapter").mkdir()
    return path


def only(paper: type[Paper]) -> dict[str, Any]:
    [found] = paper.runs.values()
    return found


def test_a_finished_run_is_sent_once_with_its_samples_result_and_report(
    paper: type[Paper], run: Path
) -> None:
    for _ in range(2):
        evolign.track(run, ["wandb"])
    found = only(paper)
    assert len(found["points"]) == len(set(found["points"]))
    assert {step for step, _ in found["points"]} == {0, 1, 2}
    names = {name for _, name in found["points"]}
    assert {
        "completions",
        "eval/accuracy_greedy",
        "final/accuracy_greedy",
        "baseline/accuracy_greedy",
    } <= names
    assert not names & {"generation", "step"}
    assert {name for name, _ in found["tables"]} == {"samples/baseline", "samples/final"}
    assert sorted(found["files"]) == ["config.json", "provenance.json", "report.html", "result.json"]
    assert (found["name"], found["ends"]) == ("sums", [True])


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_resumed_run_joins_and_doubles_nothing(paper: type[Paper], run: Path, cut: int) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "result.json").unlink()
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    evolign.track(run, ["wandb"])
    (run / "metrics.jsonl").write_text("".join(lines[:cut]))

    class Asking(Silent):
        def record(self, row: Mapping[str, Any]) -> bool:  # type: ignore[override]  # Silent asks nothing
            return True

    with RunDir.open(run) as opened, Follower(opened, ["wandb"], "other", None, Asking()) as follower:
        for line in lines[cut:]:
            opened.append("metrics.jsonl", [json.loads(line)])
            assert follower.record(json.loads(line)) is True, "the request to stop is passed on"
    assert len(only(paper)["points"]) == len(set(only(paper)["points"]))
    assert {step for step, _ in only(paper)["points"]} == {0, 1, 2}


def test_the_final_samples_of_a_run_that_is_not_finished_wait(paper: type[Paper], run: Path) -> None:
    later = {"step": 3, "split": "validation", "completion": "later"}
    result = (run / "result.json").read_text()
    (run / "result.json").unlink()
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    evolign.track(run, ["wandb"])
    assert ("samples/validation", "later") not in only(paper)["tables"]
    (run / "result.json").write_text(result)
    evolign.track(run, ["wandb"])
    assert only(paper)["tables"].count(("samples/validation", "later")) == 1


@pytest.mark.parametrize("what", ["log", "keep"])
def test_a_tracker_that_fails_costs_no_run_and_gets_the_rest_later(
    paper: type[Paper], run: Path, what: str
) -> None:
    said = Silent()
    paper.broken.add(what)
    with pytest.raises(RunError, match=f"no paper to {what}"):
        evolign.track(run, ["wandb"], progress=said)
    [warning] = [text for text in said.said if text.startswith("Warning")]
    assert f"evolign track {run} --to wandb" in warning
    paper.broken.clear()
    evolign.track(run, ["wandb"])
    assert {step for step, _ in only(paper)["points"]} == {0, 1, 2}
    assert "result.json" in only(paper)["files"]


def test_a_tracker_that_cannot_be_opened_stops_a_new_run_but_not_a_known_one(
    paper: type[Paper], run: Path
) -> None:
    (run / "result.json").unlink()
    paper.broken.add("open")
    with pytest.raises(ConfigError, match=r"tracking\.to: wandb cannot be started .*no paper to open"):
        evolign.track(run, ["wandb"])
    paper.broken.clear()
    evolign.track(run, ["wandb"])
    paper.broken.add("open")
    said = Silent()
    with RunDir.open(run) as opened, Follower(opened, ["wandb"], "p", None, said) as follower:
        follower.record({"generation": 3})
    assert "the run goes on without it" in said.said[-1]


def test_what_cannot_be_sent_says_what_to_do(
    paper: type[Paper], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="say which with --to: trackio, wandb, tensorboard"):
        evolign.track(run)
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'.*Did you mean 'tensorboard'\?"):
        evolign.track(run, ["tensorbord"])
    with pytest.raises(ConfigError, match="a/b"):
        evolign.track(run, ["tensorboard"], project="a/b")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackio is not installed: pip install 'evolign\[trackers\]'"):
        evolign.track(run, ["trackio"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": ["wandb", "wandb"]}, "names a tracker twice"),
        ({"to": ["mlflow"]}, "tracking.to"),
        ({"project": "a/b"}, "tracking.project and tracking.name: 'a/b'"),
        ({"name": ""}, "tracking.project and tracking.name: ''"),
    ],
)
def test_settings_that_no_tracker_takes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"tracking": settings})


@pytest.mark.parametrize("method", CONFIGS)
def test_every_method_has_the_section(method: str) -> None:
    assert parse({"method": method, "tracking": {"to": ["trackio"]}}).tracking.to == ["trackio"]


@pytest.mark.parametrize("method", ["evolution", "grpo"])
def test_a_run_is_followed_while_it_goes_on(
    paper: type[Paper], base: Callable[[str], Any], tmp_path: Path, method: str
) -> None:
    sections: dict[str, Any] = {"tracking": {"to": ["wandb"], "name": "mine"}}
    if method == "evolution":
        evolution = {"generations": 2, "prompts_per_generation": 2}
        sections |= {"strategy": {"population": 4, "sigma": 0.1}, "evolution": evolution}
        sections |= {"evaluation": {"every": 1, "decoding": ["greedy"], "num_samples_kept": 4}}
        recipe = {"seed": 3, "adapter": {"rank": 2, "warm_start": None}, "sampling": {"max_new_tokens": 4}}
        config = parse(recipe | sections)
    else:
        config = parse(tree(method, **sections, training={"max_steps": 2}, evaluation={"every": 1}))
    evolign.run(config, tmp_path / "run", task=task(), base=base("qwen2"), progress=Silent())
    found = only(paper)
    assert {step for step, _ in found["points"]} == {0, 1, 2}
    assert len(found["points"]) == len(set(found["points"])) and found["name"] == "mine"
    assert {name for name, _ in found["tables"]} == {
        "samples/baseline", "samples/validation", "samples/final"
    }  # fmt: skip
    assert "report.html" in found["files"] and found["ends"] == [True]
