"""The rewards that recipes name: answers that are right, and overlap with a reference."""

from collections.abc import Sequence
from typing import Any

from evolign.messages import Completion, completion_text
from evolign.rewards.grading import final_answer, math_equal, numbers_equal
from evolign.tasks.arithmetic import MARKER


def arithmetic_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the completion's text after the last `####` is the answer, else 0.0.

    An answer may be a number or a text; where it is null the reward does not apply.
    """
    texts = map(completion_text, completions)
    return [
        None if gold is None else float(MARKER in text and text.rpartition(MARKER)[2].strip() == str(gold))
        for text, gold in zip(texts, answer, strict=True)
    ]


def gsm8k_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    r"""1.0 where the completion's final number is the answer, else 0.0.

    The final number is that of the last `\boxed{...}`, else of the last `####`, else the last one.
    An answer may be a number or a text; where it is null the reward does not apply.
    """
    return [
        None if gold is None else float(numbers_equal(str(gold), final_answer(completion_text(completion))))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def math_answer(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the completion's final answer is mathematically equal to the answer, else 0.0.

    An answer may be a number or a text; where it is null the reward does not apply.
    """
    return [
        None if gold is None else float(math_equal(str(gold), completion_text(completion)))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def rouge_l(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    reference: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """ROUGE-L F1 of the completion against the reference (Lin 2004; rouge-score with Porter's stemmer).

    The score, 0 to 1, compares words without their case and marks. An empty completion scores 0; without
    a reference the reward does not apply.
    """
    from evolign.metrics import rouge  # numpy: a worker of another reward does without

    golds = [None] * len(completions) if reference is None else reference
    return [
        None if gold is None else rouge(str(gold), completion_text(completion))["rougeL"]
        for completion, gold in zip(completions, golds, strict=True)
    ]
