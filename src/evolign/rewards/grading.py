"""Grading: whether the final answer of a completion is the gold answer.

Both are read in the same way (`answers.py`, `numbers.py`): gold may be a bare answer, an answer with its
unit, or a solution that marks its answer. Equal texts are equal, and equal numbers are.

`math_equal` calls math_verify where neither decides. That can hang in C code, and guards itself by SIGALRM
only in a process' main thread: call it from a reward, which runs in a worker process that can be killed.
"""

import re
import threading
from dataclasses import dataclass

from evolign.rewards.answers import announced_answer, last_words, marked_answer, unlabelled
from evolign.rewards.notation import LONGEST, plain, text_form
from evolign.rewards.numbers import Quantity, quantity
from evolign.rewards.units import differ

BARE = 4
"""Words that a text may have to be an answer and nothing else."""
CHOICE = re.compile(r"^\s*(?:\(\s*([A-Z])\s*\)|([A-Z])\s*[).:](?!\d))\s*(.*)$", re.DOTALL)
VERDICT = re.compile(r"^\W*(yes|no|true|false)\b\s*[,.;:!]", re.IGNORECASE)
WORDS = re.compile(
    r"(?<![\\a-zA-Z])(?!(?:sin|cos|tan|log|exp|sec|csc|cot|lim|max|min|gcd|lcm|mod|det)\b)[^\W\d_]{3,}"
)
SECONDS = 5
"""Limit of one call of math_verify."""


@dataclass(frozen=True)
class Answer:
    """The final answer of a text, as it is written there and as what it states."""

    text: str
    stated: Quantity | None
    found: bool
    """The text marks or announces it, or is nothing else; if not, `text` is the whole text."""


def final_answer(text: str) -> Answer:
    """What is marked, else what is announced, else the last number; see `answers.py`."""
    marked = marked_answer(text)
    if marked is not None:
        return Answer(marked, quantity(marked, answer=True), found=True)
    announced = announced_answer(text)
    if announced:
        stated = quantity(announced, answer=True)
        words_before = re.split(r"\d", plain(announced[:LONGEST]))[0].split()
        reckons_on = "=" in text.rpartition(announced)[2]
        if stated is None or (len(words_before) < BARE and not reckons_on):
            return Answer(announced, stated or quantity(text, answer=False), found=True)
    bare = len(text.split()) <= BARE
    return Answer(text.strip(), quantity(text, answer=bare), found=bare)


def numbers_equal(gold: str, completion: str) -> bool:
    """Whether the final number of the completion is the gold number, exactly (5.0 is 5, 0.5 is 1/2).

    Where gold is no number (a time, a range, a name), it is whether the answer is the same text.
    """
    expected, given = final_answer(gold), final_answer(completion)
    return _decided(expected, given) is True


def math_equal(gold: str, completion: str) -> bool:
    """Whether the final answer of the completion means the same as gold.

    Equal texts and equal numbers are decided at once, so are different numbers and words; everything else
    (roots, sets, intervals, expressions) is compared by math_verify, which takes milliseconds to seconds.
    """
    expected, given = final_answer(gold), final_answer(completion)
    decided = _decided(expected, given)
    return _verified(expected, given) if decided is None else decided


def _decided(expected: Answer, given: Answer) -> bool | None:
    """Whether two answers are equal as texts or as numbers; None where only mathematics can tell."""
    if not given.text:
        return False
    gold, stated = expected.stated, given.stated
    kinds = {None if each is None else each.kind for each in (gold, stated)}
    if gold and stated and differ(gold.unit, stated.unit):
        return False
    same = {_same_text(expected.text, given.text)}
    if "number" not in kinds:
        same.add(_same_text(expected.text, last_words(given.text)))
    if same != {None}:
        return True in same
    if gold and stated and kinds == {"number"}:
        return bool(gold.values & stated.values)
    if gold and stated and gold.written and gold.written == stated.written:
        return True
    if "number" in kinds and ("several" in kinds or None in kinds):
        return False
    formula = plain(expected.text[:LONGEST])
    if WORDS.search(formula) and "\\" not in formula:
        return False
    return None if given.found or gold is None or gold.kind != "number" else False


def _same_text(expected: str, given: str) -> bool | None:
    """Whether one is the other but for notation, case of words, a label, or the letter of a choice.

    False for another letter; None where the texts do not tell.
    """
    if expected == given or (text_form(expected) and text_form(expected) == text_form(given)):
        return True
    (letter, words), (given_letter, given_words) = _choice(expected), _choice(given)
    if letter and given_letter and letter != given_letter:
        return False
    if words and given_words:
        return True if words == given_words else None
    return True if letter and letter == given_letter else None


def _choice(answer: str) -> tuple[str, str]:
    """The letter of a choice and its text: "(B) Paris" has both, "B" and "Paris" have one."""
    answer = unlabelled(plain(answer))
    if match := CHOICE.match(answer):
        return match[1] or match[2], text_form(match[3])
    if match := VERDICT.match(answer):
        return "", match[1].casefold()
    form = text_form(answer)
    return (form.upper(), "") if re.fullmatch("[A-Ja-j]", form) else ("", form)


def _verified(expected: Answer, given: Answer) -> bool:
    """What math_verify says of the answer, or of the whole text where nothing is marked."""
    from math_verify import parse, verify

    # Outside the main thread there are no signals, and math_verify would raise.
    limit = SECONDS if threading.current_thread() is threading.main_thread() else None
    gold = parse(_formula(expected), parsing_timeout=limit)
    answer = parse(_formula(given), parsing_timeout=limit)
    return bool(answer) and bool(verify(gold, answer, timeout_seconds=limit))


def _formula(answer: Answer) -> str:
    return f"\\boxed{{{answer.text.strip().strip('$').strip()}}}" if answer.found else answer.text
