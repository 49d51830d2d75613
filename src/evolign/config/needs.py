"""What a method asks of a task, declared beside its settings and checked before anything is spent."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Needs:
    """What a method learns from."""

    rows: Literal["prompts", "solved", "pairs"]
    """Prompts and a reward; rows with a completion; or rows with a completion and a rejected one."""
    prompts: int = 1
    """Training prompts that there must be at least."""
    setting: str = ""
    """The setting that asks for this number of prompts."""
