"""Rewards in a module that imports nothing, so that their processes are ready at once."""

from typing import Any


def letters(completions: list[str], letter: list[str], **columns: Any) -> list[float]:
    return [float(text.count(each)) for text, each in zip(completions, letter, strict=True)]


def length(completions: list[str], **columns: Any) -> list[float]:
    return [len(text) / 10 for text in completions]
