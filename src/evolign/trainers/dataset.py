"""Training rows as token ids, exactly as the engine sees prompts and writes completions."""

from typing import TYPE_CHECKING, Any

from evolign.errors import ConfigError
from evolign.runs.progress import Progress
from evolign.types import Example

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel


def with_target_tokens(
    rows: list[dict[str, Any]], completion: str, max_length: int, progress: Progress
) -> list[dict[str, Any]]:
    """Drop rows whose column `completion` has no target tokens after truncation, with a warning.

    Raises ConfigError if there are none.
    """
    kept = [row for row in rows if any(row[completion])]
    if not kept:
        raise ConfigError(
            f"training.max_length = {max_length} cuts all {len(rows)} rows off before their completion; use "
            "a larger one"
        )
    if len(kept) < len(rows):
        progress.say(
            f"Warning: {len(rows) - len(kept)} of {len(rows)} rows are left out, since training.max_length = "
            f"{max_length} cuts them off before their completion."
        )
    return kept


def dpo_row(base: "BaseModel", example: Example, max_length: int) -> dict[str, Any]:
    """Prompt, better and worse completion; completions are cut where the whole is too long."""
    prompt = base.encoder.encode(example.prompt)[-max_length:]
    room = max_length - len(prompt)
    return {
        "prompt_ids": prompt,
        "chosen_ids": base.encoder.encode_completion(example.completion or "")[:room],
        "rejected_ids": base.encoder.encode_completion(example.rejected or "")[:room],
    }


def ranked_row(base: "BaseModel", example: Example, max_length: int) -> dict[str, Any]:
    """The prompt with its better and with its worse completion; the end is kept where they are too long."""
    prompt = base.encoder.encode(example.prompt)
    return {
        "chosen_ids": [*prompt, *base.encoder.encode_completion(example.completion or "")][-max_length:],
        "rejected_ids": [*prompt, *base.encoder.encode_completion(example.rejected or "")][-max_length:],
    }
