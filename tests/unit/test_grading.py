"""Answers are found in completions and compared as texts, as numbers or as mathematics."""

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from evolign.rewards.answers import boxed
from evolign.rewards.grading import final_answer, math_equal, numbers_equal
from evolign.rewards.loading import Reward
from evolign.rewards.named import arithmetic_answer, gsm8k_answer, math_answer
from evolign.rewards.notation import plain
from evolign.rewards.numbers import quantity

TABLE = yaml.safe_load((Path(__file__).parent / "data/answers.yaml").read_text())
GRADERS = {"gsm8k_answer": gsm8k_answer, "math_answer": math_answer}


def verdicts(grader: str) -> Iterator[tuple[str, str, float, str]]:
    """Gold, completion, what a careful grader gives and why: the rows of the table that hold for `grader`."""
    for row in TABLE:
        if row.get("only", grader) == grader:
            for credit in ("credit", "none"):
                for completion in row.get(credit, ()):
                    yield row["gold"], completion, float(credit == "credit"), row["why"]


@pytest.mark.parametrize("grader", GRADERS)
def test_a_grader_gives_what_a_careful_one_gives(grader: str) -> None:
    golds, completions, expected, why = zip(*verdicts(grader), strict=True)
    given = GRADERS[grader]([""] * len(golds), completions, golds)
    wrong = [row for row in zip(why, golds, completions, expected, given, strict=True) if row[3] != row[4]]
    assert len(golds) > 500 and not wrong


@pytest.mark.parametrize("grader", GRADERS)
def test_every_answer_is_equal_to_itself(grader: str) -> None:
    golds = [row["gold"] for row in TABLE] + ["?!", "()", "N/A", "1/0", "9" * 5000, "1e999", r"\boxed{x", "{"]
    assert GRADERS[grader]([""] * len(golds), golds, golds) == [1.0] * len(golds)


@pytest.mark.parametrize(
    ("gold", "completion", "correct"),
    [
        (r"so we have \boxed{3\sqrt{2}}", r"\boxed{\sqrt{18}}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", True),
        (r"[2,5)", r"\boxed{[2,5]}", False),
        (r"\text{east}", r"\boxed{seat}", False),
        ("x+1", r"\boxed{\frac{}{", False),
        (r"\pi", r"\boxed{)(}", False),
    ],
)
def test_what_is_neither_text_nor_number_is_compared_as_mathematics(
    gold: str, completion: str, correct: bool
) -> None:
    assert math_equal(gold, completion) is correct


def test_mathematics_is_compared_in_any_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(math_equal("x+1", r"\boxed{1+x}")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "text", ["1 " * 5000, r"\boxed{" * 3000, "between 5 and " * 2000, "²" * 5000, "5-" * 5000]
)
def test_a_degenerate_completion_takes_no_time(text: str) -> None:
    """A regular expression that went back and forth would take minutes; the worker's limit is 30 s."""
    assert not numbers_equal("18", text)


def test_an_arithmetic_answer_may_come_as_a_float() -> None:
    golds = [42.0, "42", 42.5, np.int64(42), None]
    assert arithmetic_answer([""] * 5, ["#### 42"] * 5, golds) == [1, 1, 0, 1, None]
    assert arithmetic_answer([""], ["#### 42.0"], ["42.0"]) == [1]


@pytest.mark.parametrize("reward", [arithmetic_answer, gsm8k_answer, math_answer])
def test_an_answer_that_is_no_text_is_refused(reward: Reward) -> None:
    for gold in (["18"], {"value": 18}, float("nan")):
        with pytest.raises(ValueError, match=r"is (a list|a dict|nan)"):
            reward([""], ["#### 18"], [gold])


def test_the_last_complete_box_counts_with_its_nested_braces() -> None:
    assert boxed(r"\boxed{1} then \boxed {\frac{1}{\sqrt{2}}}.") == r"\frac{1}{\sqrt{2}}"
    assert boxed(r"no \boxed{ end") is None
    assert boxed(r"\boxed{ \boxed{5}") == "5"
    assert boxed(r"\boxed{\{1,2\}}") == r"\{1,2\}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,234.50", "2469/2"),
        ("+1,000.5", "2001/2"),
        ("(12,345,678)", "12345678"),
        ("from 1,234.50 we go on: 2", "2"),
        (r"0.1\overline{6}", "1/6"),
    ],
)
def test_a_number_is_exact(text: str, value: str) -> None:
    found = quantity(text, answer=True)
    assert found is not None and found.values == {Fraction(value)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\$1{,}234", "1,234"),
        (r"\boxed{\textbf{(B)}\ 5}", "(B) 5"),
        ("cm²", "cm^2"),
        (r"3\frac12", "3 1/2"),
        ("**３½**", "3 1/2"),
        (r"\sqrt{2}\pi", r"\sqrt{2}\pi"),
    ],
)
def test_notation_becomes_plain_and_mathematics_stays(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_the_answer_is_the_marked_one_else_the_announced_one_else_the_last() -> None:
    assert final_answer(r"The answer is 1. #### 2 \boxed{3}").text == "3"
    assert final_answer("The answer is 1. #### 2 apples").text == "2 apples"
    assert final_answer("The answer is 1. It took 2 steps.").text == "1"
    assert not final_answer("Nobody knows what one may say of 1 or of 2.").found
