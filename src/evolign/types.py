"""The vocabulary: the plain values that cross from one stage of the data flow to the next.

Shape letters, used as suffixes of array names throughout the project:

    N  candidates of a population      P  prompts of a batch      S  samples per prompt
    D  dimensions of the search space  R  rank of a LoRA adapter  T  tokens
    B  rows of a micro-batch           V  vocabulary              K  dimensions of a subspace
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolign.messages import Prompt


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


Reward = str | Callable[..., Any]
"""What `evolign.rewards.loading.load_reward` takes, or the function itself."""


@dataclass(frozen=True)
class WeightedReward:
    """One of several rewards."""

    reward: Reward
    weight: float = 1.0
    """0: it is watched, and does not count."""


Rewards = Reward | Sequence[WeightedReward]
"""The reward of a task: one, or a weighted sum of several."""


@dataclass(frozen=True)
class Population:
    """The candidates of one step: what crosses the engine's boundary in place of weights.

    It is O(N K) numbers, however large the policy is, because the engine keeps the mean.
    """

    theta_NK: np.ndarray
    """float64, shape (N, K). Points of the search space, where K = D and 0 is the starting adapter; or
    coordinates in a subspace around the mean, where 0 is the mean."""
    subspace: int | None = None
    """Seed of the subspace's directions; None: the candidates are points of the whole space."""
    with_mean: bool = False
    """The mean policy takes part as candidate number N."""
    version: int = 0
    """Number of moves that the mean has made. An engine whose mean has another version refuses it."""

    @classmethod
    def of_mean(cls, version: int = 0) -> "Population":
        """The mean policy and no other candidate."""
        return cls(np.zeros((0, 0)), with_mean=True, version=version)

    def __len__(self) -> int:
        return len(self.theta_NK) + self.with_mean

    def candidates(self, mean_D: np.ndarray) -> np.ndarray:
        """All candidates as one array, (N, K) or (N + 1, K), where the mean has moved to `mean_D`."""
        if not self.with_mean:
            return self.theta_NK
        mean_K = mean_D if self.subspace is None else np.zeros(self.theta_NK.shape[1])
        return np.vstack([self.theta_NK, mean_K]) if len(self.theta_NK) else mean_K[None]


@dataclass(frozen=True)
class Direction:
    """Where the mean may move next: a step along it is measured before its length is decided."""

    origin_K: np.ndarray
    """float64, shape (K,): the mean, in the coordinates of the population; 0 in a subspace."""
    step_K: np.ndarray
    """float64, shape (K,): a step of the mean in the same coordinates."""
    divergence: float
    """Wanted divergence of a measured step from the mean, in nats per completion."""
    scale: float | None
    """First guess of the factor at which a step has that divergence; None: no guess yet."""


@dataclass(frozen=True)
class Jump:
    """A move to a given point."""

    point_D: np.ndarray
    """float64, shape (D,): the new mean."""


@dataclass(frozen=True)
class Step:
    """A move along a direction in a subspace, with momentum; enough to repeat it in any process.

    g = scale * lift(step_K)
    m = momentum * m + (1 - momentum) * g
    v = beta2 * v + (1 - beta2) * g^2                         where `adam` is given
    mean += length * m / debias  [ / (sqrt(v / debias2) + 1e-8) ]
    """

    step_K: np.ndarray
    """float64, shape (K,)."""
    subspace: int | None
    """Seed of the subspace's directions; None: K = D and `lift` is the identity."""
    length: float
    scale: float = 1.0
    momentum: float = 0.0
    debias: float = 1.0
    adam: tuple[float, float] | None = None
    """beta2 and debias2."""


Move = Jump | Step
"""How the mean moves: K numbers and a few constants, which a mean in any process can apply."""


@dataclass(frozen=True)
class Cost:
    """The cost of completions. Costs are added by `a + b`."""

    completions: int = 0
    tokens: int = 0
    """Generated tokens."""
    timeouts: int = 0
    """Completions whose reward hung."""
    crashes: int = 0
    """Completions whose reward killed its process."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.completions + other.completions,
            self.tokens + other.tokens,
            self.timeouts + other.timeouts,
            self.crashes + other.crashes,
        )


NO_COST = Cost()


@dataclass(frozen=True)
class Abilities:
    """What an engine can do; a configuration that asks for more is refused before anything is spent."""

    exact: bool
    """Results depend on the candidate, the prompt and the sampling only, not on how rows are batched."""
    reads: bool
    """It computes log-probabilities of given completions, which likelihood fitness needs."""
    live_weights: bool
    """It samples from a model in this process whose weights a trainer changes between two calls."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. The same values give the same completions on any batch layout."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 decodes greedily."""
    samples_per_prompt: int = 1
    noise_seed: int = 0
    """The noise of a token depends on this, `Example.id`, the sample's number and the position."""


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
    def cost(self) -> Cost:
        """Completions and generated tokens."""
        return Cost(int(self.text_NPS.size), sum(map(len, self.token_ids_NPS.flat)))
