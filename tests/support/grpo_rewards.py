"""Rewards as scripts for TRL's GRPOTrainer have them: format, answer, length, language, and tags."""

import asyncio
import re
from typing import Any


def format_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>$"
    return [1.0 if re.match(pattern, c[0]["content"], re.DOTALL) else 0.0 for c in completions]


async def answer_reward(
    prompts: list[Any], completions: list[Any], answer: list[str], log_extra: Any, **kwargs: Any
) -> list[float | None]:
    await asyncio.sleep(0)
    said = [c[0]["content"].split("<answer>")[-1].split("</answer>")[0].strip() for c in completions]
    log_extra("said", said)
    log_extra("gold", list(answer))
    return [None if gold is None else float(s == gold) for s, gold in zip(said, answer, strict=True)]


def length_reward(completion_ids: list[list[int]], trainer_state: Any, **kwargs: Any) -> list[float]:
    target = 4 + 100 * trainer_state.global_step / trainer_state.max_steps
    return [-abs(len(ids) - target) for ids in completion_ids]


def language_reward(completions: list[Any], log_metric: Any, **kwargs: Any) -> list[float]:
    texts = [c[0]["content"] for c in completions]
    shares = [sum(ch.isascii() for ch in text) / max(len(text), 1) for text in texts]
    log_metric("ascii_share", sum(shares) / len(shares))
    return shares


def tag_count_reward(completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float]:
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    return [0.25 * sum(c[0]["content"].count(tag) == 1 for tag in tags) for c in completions]


REWARDS = [format_reward, answer_reward, length_reward, language_reward, tag_count_reward]
