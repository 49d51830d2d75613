"""The vocabulary: the plain values that cross from one stage of the data flow to the next.

Shape letters, used as suffixes of array names throughout the project:

    N  candidates of a population      P  prompts of a batch      S  samples per prompt
    D  dimensions of the search space  R  rank of a LoRA adapter  T  tokens
    B  rows of a micro-batch           V  vocabulary              K  dimensions of a subspace
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Prompt = str | list[dict[str, str]]
"""Plain text, or chat messages `[{"role": ..., "content": ...}, ...]`."""
Completion = str | list[dict[str, str]]
"""Text, or TRL's list of one assistant message where the prompt is chat messages."""


def completion_text(completion: Completion) -> str:
    """The text of a completion, whether it is a string or TRL's list of one assistant message."""
    return completion if isinstance(completion, str) else completion[0]["content"]


@dataclass(frozen=True)
class Example:
    """One row of a task."""

    id: str
    """Unique within the task; sampling noise is keyed by it."""
    prompt: Prompt
    completion: str | None = None
    """A reference completion, where the task has one (the warm start is trained on it)."""
    rejected: str | None = None
    """A worse completion of the same prompt, where the task has pairs."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the row holds; handed to the reward function as keyword arguments."""


@dataclass(frozen=True)
class Subspace:
    """A random slice of a search space that is too large for candidates of their own: a point and a seed."""

    origin_D: np.ndarray
    """The point that the coordinates 0 stand for."""
    seed: int
    """Of the directions, which a space draws from it: the same everywhere, up to rounding."""


@dataclass(frozen=True)
class Subspaces:
    """The random subspaces of a search space."""

    dim: int
    """K."""
    lift: Callable[[Subspace, np.ndarray], np.ndarray]
    """The step_D that coordinates, (K,), of a subspace stand for; linear in them."""


@dataclass(frozen=True)
class Population:
    """The candidates of one step: what crosses the engine's boundary in place of weights."""

    theta_ND: np.ndarray
    """float64, shape (N, D); the zero vector is the policy that the search started from. In a subspace:
    coordinates, (N, K), of which the zero vector is the subspace's origin."""
    subspace: Subspace | None = None

    def __len__(self) -> int:
        return len(self.theta_ND)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. The same values give the same completions on any batch layout."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 decodes greedily."""
    samples_per_prompt: int = 1
    noise_seed: int = 0
    """With `Example.id`, the sample's number and the position it fixes the noise of a token."""


@dataclass(frozen=True)
class Rollouts:
    """What an engine generated, as object or number arrays of shape (N, P, S)."""

    text_NPS: np.ndarray
    """str: the completion without special tokens."""
    token_ids_NPS: np.ndarray
    """tuple[int, ...]: the generated tokens, the end-of-sequence token included."""
    truncated_NPS: np.ndarray
    """bool: generation stopped at `max_new_tokens`, not at an end-of-sequence token."""
    seconds: float

    @property
    def num_tokens(self) -> int:
        """Generated tokens in all."""
        return sum(map(len, self.token_ids_NPS.flat))

    @property
    def num_completions(self) -> int:
        return int(self.text_NPS.size)
