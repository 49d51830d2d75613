"""Prompts and completions: plain text, or chat messages. Nothing heavy is imported: reward workers use it."""

Prompt = str | list[dict[str, str]]
"""Plain text, or chat messages `[{"role": ..., "content": ...}, ...]`."""
Completion = str | list[dict[str, str]]
"""Text, or TRL's list of one assistant message where the prompt is chat messages."""


def completion_text(completion: Completion) -> str:
    """The text of a completion, whether it is a string or TRL's list of one assistant message."""
    return completion if isinstance(completion, str) else completion[0]["content"]
