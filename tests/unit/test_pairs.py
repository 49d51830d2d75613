"""Pairs of a better and a worse completion: where they come from, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from evolign.errors import ConfigError
from evolign.rewards.named import arithmetic_answer
from evolign.rewards.scoring import Scorer
from evolign.runs.provenance import data_fingerprint
from evolign.tasks.arithmetic import Arithmetic
from evolign.tasks.rows import Rows
from evolign.tasks.summaries import Summaries
from evolign.types import Example

PAIRS = [{"q": f"question {i}", "good": f"good {i}", "bad": f"bad {i}"} for i in range(6)]
SETTINGS: dict[str, Any] = {"prompt": "q", "completion": "good", "rejected": "bad", "num_validation": 2}


def test_a_row_gives_both_completions_as_columns_or_templates() -> None:
    task = Rows(train=PAIRS, **{**SETTINGS, "rejected": "Well, {bad}."})
    for example in task.train + task.validation:
        number = str(example.prompt).split()[1]
        assert (example.completion, example.rejected) == (f"good {number}", f"Well, bad {number}.")


def test_completions_that_are_messages_are_taken_by_their_text() -> None:
    rows = [
        {
            name: [{"role": "assistant", "content": text}] if name != "q" else text
            for name, text in row.items()
        }
        for row in PAIRS
    ]
    assert Rows(train=rows, **SETTINGS).train == [
        Example(e.id, e.prompt, e.completion, e.rejected, columns)
        for e, columns in (
            (e, {"good": [{"role": "assistant", "content": e.completion}]}
             | {"bad": [{"role": "assistant", "content": e.rejected}]})
            for e in Rows(train=PAIRS, **SETTINGS).train
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "settings", "sentence"),
    [
        ({"bad": None}, {}, "task.rejected: the column 'bad' of row 1 is null"),
        ({"bad": " \n"}, {}, "task.rejected = 'bad' is empty in row 1"),
        ({"good": ""}, {}, "task.completion = 'good' is empty in row 1"),
        ({}, {"rejected": "worse"}, "task.rejected needs the column 'worse', which row 1 does not have"),
        ({}, {"completion": None}, "task.rejected = 'bad' needs task.completion"),
        ({}, {"rejected": "good"}, "in all 6 rows task.rejected = 'good' is the same text"),
    ],
)
def test_what_is_wrong_with_pairs_is_said(
    changes: dict[str, Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Rows(train=[{**PAIRS[0], **changes}, *PAIRS[1:]], **{**SETTINGS, **settings})


def test_pairs_of_equals_are_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    equal = {"q": "question 0", "good": "the same", "bad": "the same"}
    task = Rows(train=[equal, *PAIRS], **SETTINGS)
    assert "left out 1 pairs whose two completions are equal" in caplog.text
    assert "prompt came before" not in caplog.text
    assert "good 0" in [example.completion for example in task.train + task.validation]


def test_solved_arithmetic_has_a_right_and_a_wrong_solution_in_every_row() -> None:
    sizes: dict[str, Any] = {"num_train": 200, "num_validation": 40, "num_test": 40}
    plain, solved = Arithmetic(**sizes), Arithmetic(**sizes, solved=True)
    assert solved.warmup == plain.warmup
    for split in ("train", "validation", "test"):
        examples: list[Example] = getattr(solved, split)
        answers = [example.columns["answer"] for example in examples]
        for attribute, score in (("completion", 1.0), ("rejected", 0.0)):
            texts = [getattr(example, attribute) for example in examples]
            assert arithmetic_answer([], texts, answers) == [score] * len(examples)
        bare = [Example(e.id, e.prompt, columns=e.columns) for e in examples]
        assert bare == getattr(plain, split)


@pytest.mark.parametrize("variant", ["plain", "ood"])
def test_every_text_has_a_summary_and_a_worse_one(variant: str) -> None:
    task = Summaries(variant=variant, num_train=60, num_validation=10, num_test=10, num_warmup=10)
    examples = task.warmup + task.train + task.validation + task.test
    with Scorer("rouge_l", workers=1, timeout_seconds=30) as scorer:
        better = scorer.score(examples, [str(example.completion) for example in examples]).values
        worse = scorer.score(examples, [str(example.rejected) for example in examples]).values
    assert (better == 1).all() and (worse < 0.9).all() and worse.mean() > 0.3


def test_a_fingerprint_tells_the_rejected_completion_and_is_the_old_one_without() -> None:
    example = Example("a", "p", "c", columns={"x": 1})
    assert data_fingerprint([example]) == "eb41e44ca5b5e96ebb68603a4c9ebf92"
    sets = [Example("a", "p", columns={"x": {*words}, "y": object()}) for words in ("abc", "cab", "abd")]
    assert data_fingerprint(sets[:1]) == data_fingerprint(sets[1:2]) != data_fingerprint(sets[2:])
    pair = Example("a", "p", "c", "r", {"x": 1})
    assert len({data_fingerprint([e]) for e in (example, pair, Example("a", "p", "c", "s", {"x": 1}))}) == 3


def test_the_reward_gets_the_reference_unless_the_row_has_a_column_of_that_name(tmp_path: Path) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(text or "")) for text in columns["reference"]]

    examples = [
        Example("0", "p", "1234"),
        Example("1", "p", "1234", columns={"reference": "12"}),
        Example("2", "p"),
    ]
    with Scorer(reward, workers=1, timeout_seconds=30) as scorer:
        assert scorer.score(examples, ["", "", ""]).values.tolist() == [4, 2, 0]


def test_pairs_of_a_file_survive_the_way_through_a_recipe(tmp_path: Path) -> None:
    from evolign.config.recipe import parse
    from evolign.tasks import build_task

    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    config = parse({"task": {"name": "rows", "train": str(tmp_path / "pairs.jsonl"), **SETTINGS}})
    assert build_task(config.task).train == Rows(train=PAIRS, **SETTINGS).train
