"""Answers are found in completions and compared as numbers or as mathematics."""

import pytest

from evolign.rewards.grading import (
    boxed,
    final_answer,
    last_number,
    math_equal,
    numbers_equal,
    to_number,
)
from evolign.rewards.named import gsm8k_answer, math_answer


@pytest.mark.parametrize(
    ("gold", "completion", "correct"),
    [
        ("18", "She makes 9 * 2 = $18 every day at the farmer’s market.\n#### 18", True),
        ("18", r"She makes $9 \times 2 = \boxed{18}$ dollars.", True),
        ("18", r"\boxed{\$18}", True),
        ("18", r"\boxed{18.00}", True),
        ("18", r"\boxed{18\text{ dollars}}", True),
        ("18", r"\boxed{9 \times 2 = 18}", True),
        ("18", r"\boxed{\textbf{18}}", True),
        ("18", r"\boxed{\frac{36}{2}}", True),
        ("18", r"First \boxed{16}, no: \boxed{18}", True),
        ("18", r"First \boxed{18}, no: \boxed{16}", False),
        ("18", r"\boxed{18} and then cut off \boxed{2", True),
        ("18", "So the answer is **18**.", True),
        ("18", "#### $18.", True),
        ("18", "#### 18\nQuestion: and what is 3 + 4?", True),
        ("18", r"\boxed{-18}", False),
        ("18", r"\boxed{}", False),
        ("18", "eighteen", False),
        ("18", "", False),
        ("18", "#### 180", False),
        ("-3", "#### −3", True),
        ("-3", "The temperature is -3 degrees", True),
        ("3", "It is 9-3", True),
        ("70,000", r"The profit is \boxed{\$70{,}000}", True),
        ("70,000", r"The profit is \boxed{70\,000}", True),
        ("2,125", "#### 2125", True),
        ("2125", "It costs $2,125.00 in all.", True),
        ("150", r"an increase of \boxed{150\%}", True),
        ("150", "that is 150%", True),
        ("0.5", r"\boxed{\dfrac12}", True),
        ("0.5", "#### .5", True),
        ("5", r"\boxed{1/0}", False),
    ],
)
def test_a_gsm8k_completion_is_graded_by_its_final_number(gold: str, completion: str, correct: bool) -> None:
    assert numbers_equal(gold, final_answer(completion)) is correct
    chat = [{"role": "assistant", "content": completion}]
    assert gsm8k_answer(["", ""], [completion, chat], [gold, gold]) == [correct] * 2


@pytest.mark.parametrize(
    ("gold", "completion", "correct"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"$\frac{1}{2}$", r"\boxed{\dfrac{2}{4}}", True),
        (r"so we have \boxed{3\sqrt{2}}", r"\boxed{\sqrt{18}}", True),
        (r"3\frac12", r"\boxed{3.5}", True),
        (r"3\frac12", r"\boxed{15.5}", False),
        (r"x^2+1", r"\boxed{1+x^2}", True),
        (r"x^2+1", r"\boxed{1-x^2}", False),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", True),
        (r"\{1,2\}", r"\boxed{\{2,1\}}", True),
        (r"[2,5)", r"\boxed{[2,5]}", False),
        (r"\text{east}", r"\boxed{east}", True),
        (r"12\%", r"\boxed{0.12}", True),
        ("1,234", r"\boxed{1234}", True),
        ("2", "the answer is 2.", True),
        ("2", "I have no idea", False),
        ("x+1", "the answer is $1+x$", True),
        ("x+1", "", False),
        ("x+1", r"\boxed{\frac{}{", False),
        (r"\pi", r"\boxed{)(}", False),
    ],
)
def test_mathematically_equal_answers_are_equal(gold: str, completion: str, correct: bool) -> None:
    assert math_equal(gold, completion) is correct
    assert math_answer([""], [completion], [gold]) == [correct]


def test_the_last_complete_box_counts_with_its_nested_braces() -> None:
    assert boxed(r"\boxed{1} then \boxed {\frac{1}{\sqrt{2}}}.") == r"\frac{1}{\sqrt{2}}"
    assert boxed(r"no \boxed{ end") is None


def test_the_last_number_is_found_as_it_is_written() -> None:
    assert last_number("from 1,234.50 to 12,345,678 in 2") == "2"
    assert last_number("(12,345,678)") == "12,345,678"
    assert last_number("1,23") == "23"
    assert last_number("none") is None


def test_a_text_that_is_not_one_number_has_no_value() -> None:
    assert to_number("12 apples") is None
    assert to_number("1 2") is None
    assert to_number("1/0") is None
    assert to_number("+1,000.5") == 2001 / 2
