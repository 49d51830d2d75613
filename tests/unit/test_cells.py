"""One function says what a cell is; what is neither text nor messages is refused by row and column."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evolign.errors import ConfigError
from evolign.judging.pairs import pair_up
from evolign.messages import Message
from evolign.rewards.loading import load_reward
from evolign.rewards.named import math_answer
from evolign.tasks.cells import cell, text
from evolign.tasks.rows import Rows

PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two", "image_url": None}]
IMAGE = {"type": "image_url", "image_url": {"url": "x.png"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("two\n", "two\n"),
        ("", ""),
        (7, "7"),
        (0.1, "0.1"),
        (True, "True"),
        (np.int64(7), "7"),
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.bool_(False), "False"),
        (np.str_("x"), "x"),
        (np.array(3), "3"),
        (pa.scalar(7), "7"),
        (pa.scalar(0.1, pa.float32()), "0.1"),
        (pa.scalar("x"), "x"),
        ("[1, 2]", "[1, 2]"),
        ('[{"name": "add", "arguments": {}}]', '[{"name": "add", "arguments": {}}]'),
        (PARTS, "one two"),
        ([user("hi"), assistant("ho")], [user("hi"), assistant("ho")]),
        ((user(PARTS),), [user("one two")]),
        (np.array([user("hi"), assistant("ho")]), [user("hi"), assistant("ho")]),
        (pa.scalar([user("hi")]), [user("hi")]),
        ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], [user("hi"), assistant("ho")]),
        (
            [{"from": "system", "value": "s"}, {"from": "user", "value": 7}],
            [{"role": "system", "content": "s"}, user("7")],
        ),
        ([{"role": "Human", "content": "hi", "from": None, "tool_calls": None}], [user("hi")]),
        (
            [{"role": "tool", "content": "4", "name": "add", "ms": 3}],
            [{"role": "tool", "content": "4", "name": "add"}],
        ),
        ([{"role": "critic", "content": "no"}], [{"role": "critic", "content": "no"}]),
    ],
)
def test_a_cell_is_text_or_messages(value: Any, expected: str | list[Message]) -> None:
    assert cell(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is null"),
        (math.nan, "is nan, which stands for a missing value; remove the row"),
        (np.float32("nan"), "is nan"),
        (pa.scalar(math.nan, pa.float32()), "is nan"),
        (-math.inf, "is -inf"),
        (b"x", "is a bytes"),
        (1j, "is a complex"),
        (np.datetime64("2020-01-01"), "is a date"),
        ({"role": "user", "content": "x"}, "is a dict; give a text, a number, or messages"),
        ([], "is an empty list"),
        (["a", "b"], "is a list of str"),
        ([1, "b"], "is a list of int, str"),
        ([user("x"), "y"], "is a list of dict, str"),
        (np.array([1.0, 2.0]), "is a list of float"),
        ([[user("x")]], "is a list of list"),
        ([{"question": "x"}], "is a list whose element 1 has question, where a message has role and content"),
        ([user("x"), assistant(None)], "is a list whose element 2 has role, where"),
        ([user([*PARTS, IMAGE])], "a message, number 1, whose content has a part of type 'image_url'"),
        ([user([{"type": "image"}])], "a part of type 'image'"),
        ([user(["a"])], "has a list in its message 1"),
        ([user(math.nan)], "a message, number 1, whose content is nan"),
        ([user("x"), {**assistant(""), "tool_calls": [{"name": "add"}]}], "has tool_calls in its message 2"),
        (
            [{"from": "function_call", "value": "{}"}],
            "the speaker 'function_call' in its message 1; known: sys",
        ),
        (json.dumps([user("x")]), "holds messages that were saved as text"),
        (str([{"from": "human", "value": "x"}]), "holds messages that were saved as text"),
    ],
)
def test_whatever_else_a_value_is_it_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        cell(value)


def test_an_answer_is_text_or_one_turn_of_the_assistant() -> None:
    assert [text(5), text("5"), text([assistant("5")])] == ["5"] * 3
    for turns in ([user("5")], [assistant("4"), user("?"), assistant("5")]):
        with pytest.raises(ValueError, match=r"holds the turns .*; give a text, or one turn"):
            text(turns)


def task(row: dict[str, Any], **settings: Any) -> Rows:
    """The task of that row alone: its column `p`, or `prompt`, and a number that makes each row another."""
    prompt = settings.pop("prompt", "p")
    return Rows(train=None, test=[row], prompt=prompt, **settings)


SUM, FOUR, FIVE = user("2+2?"), assistant("4"), assistant("5")
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"p": "2+2?", "c": [SUM, FOUR], "r": [SUM, FIVE]}, {}),
        ({"p": "2+2?", "c": [SUM, FOUR], "r": [SUM, FIVE]}, {"chat": True, "system": "Be brief."}),
        ({"p": [SYSTEM, SUM], "c": [SYSTEM, SUM, FOUR], "r": [SYSTEM, SUM, FIVE]}, {}),
        ({"p": [SYSTEM, SUM], "c": [SUM, FOUR], "r": [FIVE]}, {}),
        ({"p": [SUM], "c": [FOUR], "r": "5"}, {}),
        ({"p": [SUM], "c": 4, "r": np.int64(5)}, {}),
        ({"c": [SUM, FOUR], "r": [SUM, FIVE]}, {"prompt": "c"}),
        ({"p": "2+2?", "c": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "r": 5}, {}),
        ({"p": "2+2?", "c": np.array([SUM, FOUR]), "r": pa.scalar([SUM, FIVE])}, {}),
    ],
)
def test_of_a_dialogue_that_holds_the_prompt_the_completion_is_what_follows(
    row: dict[str, Any], settings: dict[str, Any]
) -> None:
    example = task(row, completion="c", rejected="r", **settings).test[0]
    assert (example.completion, example.rejected) == ("4", "5")
    assert example.prompt == "2+2?" or example.prompt[-1] == SUM


def test_of_one_column_for_prompt_and_completion_the_last_turn_is_learnt() -> None:
    turns = [("system", "s"), ("human", "2+2?"), ("gpt", "4"), ("human", "3+2?"), ("gpt", "5")]
    row = {"conversations": [{"from": speaker, "value": said} for speaker, said in turns]}
    example = task(row, prompt="conversations", completion="conversations").test[0]
    assert example.prompt == [{"role": "system", "content": "s"}, SUM, FOUR, user("3+2?")]
    assert (example.completion, example.columns) == ("5", {})


@pytest.mark.parametrize(
    ("row", "settings", "sentence"),
    [
        (
            {"p": "2+3?", "c": [SUM, FOUR]},
            {},
            "'c' of row 1 holds the dialogue user, assistant, which does not",
        ),
        ({"p": "2+2?", "c": [SYSTEM, SUM, FOUR]}, {}, "system, user, assistant, which does not begin with"),
        (
            {"p": [SUM], "c": [FOUR, user("?"), FIVE]},
            {},
            "the turns assistant, user, assistant after the prompt",
        ),
        ({"p": [SUM], "c": [SUM, FOUR, user("?"), FIVE]}, {}, "turns assistant, user, assistant after the"),
        ({"p": [SUM], "c": [FOUR, {"role": "tool", "content": "x"}, FIVE]}, {}, "assistant, tool, assistant"),
        ({"p": [SUM], "c": [SUM]}, {}, "holds the turns none after the prompt"),
        ({"p": "2+2?", "c": ["4"]}, {}, "task.completion: the column 'c' of row 1 is a list of str"),
        ({"p": "2+2?", "c": math.nan}, {}, "'c' of row 1 is nan, which stands for a missing value"),
        ({"p": {"a": 1}, "c": "4"}, {}, "task.prompt: the column 'p' of row 1 is a dict"),
        ({"c": "4"}, {"prompt": "c"}, "is named as both prompt and completion"),
        ({"c": [SUM, FOUR, SUM]}, {"prompt": "c"}, "user, assistant, user; as both prompt and completion it"),
        (
            {"p": [SUM], "c": 4},
            {"prompt": "Q: {p}"},
            "the column 'p' of row 1 holds the turns user; give a text",
        ),
        ({"p": {"q": None}, "c": 4}, {"prompt": "Q: {p[q]}"}, r"the column 'p\[q\]' of row 1 is null"),
        ({"p": ["2+2?"], "c": 4}, {"prompt": "Q: {p!r}"}, "the column 'p' of row 1 is a list of str"),
    ],
)
def test_a_row_that_would_teach_something_else_is_refused(
    row: dict[str, Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        task(row, completion="c", **settings)


def test_a_template_shows_texts_and_formats_numbers() -> None:
    row = {"p": PARTS, "n": np.float32(0.1), "x": 0.125, "m": [user("hi")], "c": [SUM, FOUR]}
    template = "{p}|{n}|{x:.2f}|{m[0][content]}|{x!r:>6}"
    assert task(row, prompt=template).test[0].prompt == "one two|0.1|0.12|hi| 0.125"


def test_messages_in_a_csv_file_are_not_learnt_as_text(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages", "answer"], [[SUM], 4], [[user("3+2?")], 5]])
    with pytest.raises(ConfigError, match="the column 'messages' of row 1 holds messages that were saved as"):
        Rows(train=str(tmp_path / "rows.csv"), prompt="messages", num_validation=1)


def test_rewards_and_judges_read_the_same_cells() -> None:
    answers = [4, np.float32(4), [FOUR], pa.scalar("4")]
    assert math_answer(["2+2?"] * 4, [[FOUR], "4", [assistant(PARTS[:1])], "4"], answers) == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="holds the turns assistant, user, assistant"):
        math_answer(["2+2?"], [[FOUR, SUM, FIVE]], [5])
    row = {"id": "a", "prompt": "2+2?", "completion": "4"}
    assert [pair.theirs for pair in pair_up([{**row, "reference": [FIVE]}], "reference", "greedy").pairs] == [
        "5"
    ]
    with pytest.raises(ConfigError, match="row 'a': the reference is a list of str"):
        pair_up([{**row, "reference": ["5"]}], "reference", "greedy")


def test_a_rewards_file_is_found_through_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def one(prompts, **columns):\n    return [1.0] * len(prompts)\n")
    monkeypatch.setenv("MINE", str(tmp_path))
    assert load_reward("$MINE/mine.py:one")(prompts=["a"], completions=["b"]) == [1.0]
