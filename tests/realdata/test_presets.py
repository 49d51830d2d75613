"""The published files of the presets load, split and pair as they should."""

import os
from typing import Any

import pytest

from evolign.config.recipe import parse
from evolign.rewards.scoring import Scorer
from evolign.tasks import build_task
from evolign.tasks.base import Task, check_disjoint, check_splits

pytestmark = pytest.mark.skipif(
    "EVOLIGN_DATA" not in os.environ,
    reason="needs the published files; set EVOLIGN_DATA to the folder that has them",
)

SELF_INSTRUCT = "$EVOLIGN_DATA/self_instruct"
HH = "$EVOLIGN_DATA/hh_rlhf/harmless-base-test.jsonl.gz"


def built(name: str, **settings: Any) -> Task:
    return build_task(parse({"task": {"name": name, **settings}}).task)


def test_the_252_instructions_of_users_are_a_test_set_with_references() -> None:
    task = built("self_instruct", test=f"{SELF_INSTRUCT}/user_oriented_instructions.jsonl")
    check_disjoint(task)
    assert (len(task.test), task.train) == (252, [])
    assert sum("### Input:" in str(example.prompt) for example in task.test) == 252 - 44
    with Scorer(task.reward, workers=1, timeout_seconds=60) as scorer:
        scores = scorer.score(task.test, [str(example.completion) for example in task.test]).values
    assert (scores > 0.999).sum() >= 245  # ROUGE knows words: the others are numbers of signs alone
    assert set(scores[scores < 0.999]) <= {0.0}


def test_the_seed_tasks_can_be_learnt_from() -> None:
    files = {"train": "seed_tasks", "test": "user_oriented_instructions"}
    task = built(
        "self_instruct", **{s: f"{SELF_INSTRUCT}/{f}.jsonl" for s, f in files.items()}, num_validation=20
    )
    check_splits(task)
    assert (len(task.train), len(task.validation), len(task.test)) == (155, 20, 252)


def test_the_80_questions_have_the_ten_published_answers_as_references() -> None:
    folder = "$EVOLIGN_DATA/vicuna"
    files = {"test": f"{folder}/question.jsonl", "references": f"{folder}/reference-gpt4.jsonl"}
    task = built("vicuna", **files)
    check_disjoint(task)
    assert len(task.test) == 80 and len({example.columns["category"] for example in task.test}) == 9
    with Scorer(task.reward, workers=1, timeout_seconds=60) as scorer:
        scores = scorer.score(task.test, ["It depends on the file."] * 80).values
    assert (scores == scores).sum() == 10  # NaN, not applicable, where there is no reference


@pytest.mark.parametrize("chat", [False, True])
def test_every_dialogue_is_parsed_or_counted(chat: bool, caplog: pytest.LogCaptureFixture) -> None:
    unlimited = {"max_prompt_words": None, "max_completion_words": None}
    task = built("hh", train=HH, test=None, num_test=100, num_validation=50, chat=chat, **unlimited)
    check_splits(task)
    examples = task.train + task.validation + task.test
    assert "left out 5 rows whose two dialogues differ" in caplog.text
    assert "left out 4 rows that do not end in words of the assistant" in caplog.text
    assert len(examples) in ((2312 - 5 - 4 - 2,) if not chat else range(2312 - 5 - 4 - 2 - 8, 2302))
    for example in examples:
        assert example.completion != example.rejected
        assert "\n\nHuman:" not in f"{example.completion}{example.rejected}"
    if not chat:
        rebuilt = {f"{example.prompt}{example.completion}" for example in examples}
        import gzip
        import json

        with gzip.open(os.path.expandvars(HH), "rt") as file:
            assert rebuilt <= {json.loads(line)["chosen"] for line in file}
