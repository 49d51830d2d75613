"""The rewards that recipes can name: right answers, and overlap with a reference."""

from collections.abc import Sequence
from typing import Any

from evolign.messages import Completion
from evolign.rewards.grading import math_equal, numbers_equal
from evolign.tasks.arithmetic import MARKER
from evolign.tasks.cells import text

Golds = Sequence[Any]
"""Texts or numbers to compare with; null where there is nothing, and the reward does not apply."""


def arithmetic_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Golds, **columns: Any
) -> list[float | None]:
    """1.0 where the completion's text after the last `####` is the answer, else 0.0.

    An answer may be a number (42.0 is 42) or a text; where it is null the reward does not apply.
    """

    def is_right(said: str, gold: str) -> bool:
        return MARKER in said and said.rpartition(MARKER)[2].strip() in (gold, gold.removesuffix(".0"))

    return [
        None if gold is None else float(is_right(text(completion), text(gold)))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def gsm8k_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Golds, **columns: Any
) -> list[float | None]:
    r"""1.0 where the completion's final number is the answer, else 0.0.

    The final number is that of the last `\boxed{...}`, else `<answer>`, else `####`, else of "The answer is",
    else the last one. An answer may be a number or a text, which is read in the same way: GSM8K's own
    solution, "18 dollars", or no number, and then the completion's answer must be that text. Where it is
    null the reward does not apply.
    """
    return [
        None if gold is None else float(numbers_equal(text(gold), text(completion)))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def math_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Golds, **columns: Any
) -> list[float | None]:
    """1.0 where the completion's final answer is the same text, number or expression as the answer, else 0.0.

    The final answer is found as by `gsm8k_answer`, in the answer as in the completion. Where the answer is
    null the reward does not apply.
    """
    return [
        None if gold is None else float(math_equal(text(gold), text(completion)))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def rouge_l(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    reference: Golds | None = None,
    **columns: Any,
) -> list[float | None]:
    """ROUGE-L F1 of the completion against the reference (Lin 2004; rouge-score with Porter's stemmer).

    The score, 0 to 1, compares words without their case and marks; of scripts without spaces, such as
    Chinese or Thai, it compares characters. An empty completion scores 0; without a reference the reward does
    not apply.
    """
    from evolign.metrics import rouge  # numpy: a worker of another reward does without

    golds = [None] * len(completions) if reference is None else reference
    return [
        None if gold is None else rouge(text(gold), text(completion))["rougeL"]
        for completion, gold in zip(completions, golds, strict=True)
    ]
