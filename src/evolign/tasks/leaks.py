"""Leaks: prompts that hold what is to be said (`evolign check`). Each finding is a sentence that warns."""

import re
from collections.abc import Sequence

from evolign.messages import Prompt
from evolign.tasks.base import Task, examples
from evolign.tasks.cells import text
from evolign.types import Example

RARE, COMMON = 0.01, 0.25
"""Shares of the prompts that may end with their references, and that may hold them: a text often holds an
answer to a question about it."""


def leaks(task: Task) -> list[str]:
    """What is suspicious about the prompts of a task, without a model."""
    rows = [*examples(task), *task.warmup]
    return [*_prefills(rows), *_references_inside(rows)]


def _prefills(rows: Sequence[Example]) -> list[str]:
    count = sum(_is_prefill(row.prompt) for row in rows)
    if not count:
        return []
    return [
        f"{count} of {len(rows)} prompts end with a message of the assistant, which completions continue; "
        "if it is the answer, name its column for task.completion too, so that it is taken from the prompt"
    ]


def _references_inside(rows: Sequence[Example]) -> list[str]:
    referenced = [(row, reference) for row in rows if (reference := _reference(row))]
    others = [reference for _, reference in referenced[1:] + referenced[:1]]
    for holds, allowed in ((_ends_with, RARE), (_contains, COMMON)):
        inside = [row for row, reference in referenced if holds(row.prompt, reference)]
        by_chance = sum(
            other != reference and holds(row.prompt, other)
            for (row, reference), other in zip(referenced, others, strict=True)
        )
        if len(inside) > max(allowed * len(referenced), by_chance):
            return [
                f"{len(inside)} of {len(referenced)} prompts hold the reference of their own row (the first: "
                f"example {inside[0].id!r}), so the model is shown what it should say; leave it out of "
                "task.prompt"
            ]
    return []


def _reference(row: Example) -> str:
    """What a completion should say; "" where the row does not tell."""
    if row.completion is not None:
        return row.completion.strip()
    for name in ("solution", "answer"):
        if row.columns.get(name) is not None:
            try:
                return text(row.columns[name]).strip()
            except ValueError:
                return ""
    return ""


def _ends_with(prompt: Prompt, reference: str) -> bool:
    """Whether a prompt ends with the reference, or the assistant has begun to say it."""
    last = (prompt if isinstance(prompt, str) else prompt[-1]["content"]).strip()
    if _is_prefill(prompt):
        return reference in last
    before = last.removesuffix(reference)
    return before not in ("", last) and not before[-1].isalnum()


def _contains(prompt: Prompt, reference: str) -> bool:
    """Whether a prompt holds the reference as words of its own."""
    said = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return any(
        reference in part and re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", part) for part in said
    )


def _is_prefill(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"
