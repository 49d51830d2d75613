"""Every registered task keeps the protocol of `evolign.tasks.base.Task`, and its reward works."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolign.config.recipe import parse
from evolign.rewards.check import check_reward
from evolign.rewards.scoring import Scorer
from evolign.tasks import TASKS, build_task
from evolign.tasks.base import Task, check_disjoint, check_splits, prompt_key
from evolign.tasks.rows import Rows


class Config:
    """What `build_task` needs of a pydantic model."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.name, self.fields = name, fields

    def model_dump(self, exclude: set[str]) -> Mapping[str, Any]:
        assert exclude == {"name"}
        return self.fields


def instruction(i: int, **columns: Any) -> dict[str, Any]:
    return {"instruction": f"Say what comes after {NUMBERS[i]}.", **columns}


NUMBERS = [
    f"{tens}-{units}"
    for tens in ("twenty", "thirty", "forty", "fifty", "sixty", "seventy")
    for units in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
]
PRESETS: dict[str, Callable[[int], dict[str, Any]]] = {
    "dolly": lambda i: instruction(i, context="", response=f"{NUMBERS[i]} does", category="open_qa"),
    "self_instruct": lambda i: instruction(i, instances=[{"input": "", "output": f"{NUMBERS[i]} does"}]),
    "vicuna": lambda i: {"question_id": i, "category": "generic", "turns": [f"Why {NUMBERS[i]}?"]},
    "xsum": lambda i: {"document": f"It is {NUMBERS[i]} now.", "summary": f"{NUMBERS[i]} now", "id": str(i)},
    "hh": lambda i: {
        name: f"\n\nHuman: Is it {NUMBERS[i]}?\n\nAssistant: {NUMBERS[i]} {word}"
        for name, word in (("chosen", "indeed"), ("rejected", "never"))
    },
}


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
    if name in ("arithmetic", "summaries"):
        return Config(name, num_train=60, num_validation=20, num_test=20, num_warmup=20)
    if name in PRESETS:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(PRESETS[name](i)) + "\n" for i in range(60)))
        sources: dict[str, str | None]
        sizes = {"num_validation": 10, "num_test": 10, "num_warmup": 20}
        if name == "vicuna":
            sizes, sources = {"num_test": 10}, {"test": str(path)}
        else:
            sources = {"train": str(path), "validation": None, "test": None}
        config = parse({"task": {"name": name, **sources, **sizes}}).task
        return Config(name, **config.model_dump(exclude={"name"}))
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
    assert task.metric in ("accuracy", "reward")
    if task.train:
        check_splits(task)
        assert task.warmup and all(example.completion for example in task.warmup)
    else:  # for evaluation alone
        check_disjoint(task)
        assert task.test and not task.validation and not task.warmup
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
    if not task.train:  # nothing to learn from, nothing to check with
        assert "no example holds a completion" in report.problems[0]
        return
    assert report.problems == ()
    assert (report.num_examples, report.gold, report.empty) == (20, 1.0, 0.0)
    assert report.random == 0 if task.metric == "accuracy" else report.random < 0.1
    assert report.shuffled < 0.6 and report.deterministic


def test_one_row_or_equal_answers_say_nothing_of_another_rows_answer() -> None:
    rows = [{"prompt": f"{i} + {4 - i} = ", "answer": "4"} for i in range(4)]
    for some in (rows[:2], rows):
        task = Rows(train=some, reward="math_answer", metric="accuracy", num_validation=1)
        with Scorer(task.reward, workers=1, timeout_seconds=30) as scorer:
            report = check_reward(task, scorer)
        assert report.ok and (report.gold, report.shuffled) == (1.0, 0.0), report.problems


def test_the_bare_answer_and_the_answer_as_a_model_gives_it_are_tried_too() -> None:
    """Rows may have GSM8K's own answers; a reward that wants a mark is fit for use, and the user told."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"{i} * 2 = ?", "answer": f"{i} * 2 = {2 * i}\n#### {2 * i}"} for i in range(9)
    ]
    found = {}
    for reward in ("gsm8k_answer", "math_answer", "arithmetic_answer"):
        if reward == "arithmetic_answer":
            rows = [row | {"answer": 2 * i} for i, row in enumerate(rows)]
        task = Rows(train=rows, reward=reward, metric="accuracy", num_validation=1)
        with Scorer(task.reward, workers=1, timeout_seconds=30) as scorer:
            report = check_reward(task, scorer)
        assert report.ok, report.problems
        found[reward] = (report.gold, report.bare, report.told, len(report.notes))
    assert found == {
        "gsm8k_answer": (1, 1, 1, 0),
        "math_answer": (1, 1, 1, 0),
        "arithmetic_answer": (1, 0, 0, 2),
    }


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
