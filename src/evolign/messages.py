"""Prompts and completions: plain text, or chat messages. Nothing heavy is imported: reward workers use it."""

Message = dict[str, str]
"""`{"role": ..., "content": ...}`."""
Prompt = str | list[Message]
"""Plain text, or chat messages `[{"role": ..., "content": ...}, ...]`."""
Completion = str | list[Message]
"""Text, or TRL's list of one assistant message where the prompt is chat messages."""

LARGEST_REWARD = 1e15
"""Rewards are finite and no larger: float32 holds the sum of squares of a hundred million of them."""
