"""Every registered task keeps the protocol of `evolign.tasks.base.Task`, and its reward works."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolign.tasks import TASKS, build_task
from evolign.tasks.base import Task, check_splits, prompt_key
from evolign.tasks.check import check_reward
from evolign.tasks.scoring import Scorer


class Config:
    """What `build_task` needs of a pydantic model."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.name, self.fields = name, fields

    def model_dump(self, exclude: set[str]) -> Mapping[str, Any]:
        assert exclude == {"name"}
        return self.fields


def rows_file(folder: Path) -> str:
    path = folder / "sums.jsonl"
    rows = [
        {"question": f"{a} + {b} = ?", "solved": rf"\boxed{{{a + b}}}", "answer": str(a + b)}
        for a in range(10)
        for b in range(7)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(name: str, folder: Path) -> Config:
    if name == "arithmetic":
        if importlib.util.find_spec("evolign.tasks.arithmetic") is None:
            pytest.skip("evolign.tasks.arithmetic is not there yet")
        return Config(name, num_train=60, num_validation=20, num_test=20, num_warmup=20)
    if name == "gsm8k":
        if "EVOLIGN_DATA" not in os.environ:
            pytest.skip("needs the GSM8K files; set EVOLIGN_DATA to the folder that has them")
        files = {split: f"$EVOLIGN_DATA/gsm8k/{split}.jsonl" for split in ("train", "test")}
        return Config(name, **files, num_warmup=30, num_validation=20, num_train=40, num_test=20)
    return Config(
        name,
        train=rows_file(folder),
        prompt="Question: {question}\nAnswer:",
        completion="solved",
        num_validation=10,
        num_warmup=20,
        reward="math_answer",
        metric="accuracy",
    )


@pytest.fixture(params=sorted(TASKS))
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return config_of(request.param, tmp_path)


@pytest.fixture
def task(config: Config) -> Task:
    return build_task(config)


def test_every_task_keeps_the_protocol(task: Task) -> None:
    check_splits(task)
    assert task.metric in ("accuracy", "reward")
    assert task.warmup and all(example.completion for example in task.warmup)
    for split in (task.train, task.validation, task.test, task.warmup):
        prompts = [prompt_key(example.prompt) for example in split]
        assert len(set(prompts)) == len(prompts)
    ids = [e.id for split in (task.train, task.validation, task.test, task.warmup) for e in split]
    assert len(set(ids)) == len(ids)


def test_the_same_config_gives_the_same_task_and_another_seed_another(config: Config) -> None:
    def shown(task: Task) -> list[object]:
        return [task.train, task.validation, task.test, task.warmup]

    first = shown(build_task(config))
    assert shown(build_task(config)) == first
    config.fields = {**config.fields, "seed": 1}
    assert shown(build_task(config)) != first


def test_gold_scores_one_and_garbage_does_not(task: Task) -> None:
    with Scorer(task.reward, workers=1, timeout_seconds=30) as scorer:
        report = check_reward(task, scorer, num_examples=20)
    assert report.problems == ()
    assert (report.num_examples, report.gold, report.empty, report.random) == (20, 1.0, 0.0, 0.0)
    assert report.shuffled < 0.5 and report.deterministic


def test_a_reward_that_likes_everything_or_nothing_is_found_out(tmp_path: Path) -> None:
    task = build_task(config_of("rows", tmp_path))
    for constant, complaint in ((1.0, "empty completions score 1"), (0.0, "do not score 1")):
        reward = lambda completions, c=constant, **_: [c] * len(completions)  # noqa: E731
        with Scorer(reward, workers=1, timeout_seconds=30) as scorer:
            report = check_reward(task, scorer)
        assert not report.ok and complaint in report.problems[0]


def test_a_reward_that_is_not_a_pure_function_is_found_out(tmp_path: Path) -> None:
    task = build_task(config_of("rows", tmp_path))

    def clock(completions: list[str], **columns: Any) -> list[float]:
        import time

        return [time.perf_counter()] * len(completions)

    with Scorer(clock, workers=1, timeout_seconds=30) as scorer:
        assert "differs between two calls" in check_reward(task, scorer).problems[0]


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'gsm8'.*Did you mean 'gsm8k'"):
        build_task(Config("gsm8"))


def test_shared_prompts_and_empty_splits_are_refused(tmp_path: Path) -> None:
    task = build_task(config_of("rows", tmp_path))
    fields = {"warmup": [], "test": [], "train": task.train, "validation": task.validation}
    with pytest.raises(ValueError, match="validation split is empty"):
        check_splits(SimpleNamespace(**{**fields, "validation": []}))
    with pytest.raises(ValueError, match="1 prompts of test are also in train"):
        check_splits(SimpleNamespace(**{**fields, "test": task.train[:1]}))
    with pytest.raises(ValueError, match="train split holds a prompt twice"):
        check_splits(SimpleNamespace(**{**fields, "train": task.train[:1] * 2}))
