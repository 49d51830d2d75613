"""What a worker has to know before it can work: prompts, the reward, and the way of the mean."""

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolign.strategies.mean import Mean
from evolign.types import Example, Move


@dataclass(frozen=True)
class Known:
    """What one worker has been told. The default is a worker that has just built its policy."""

    prompts: int = 0
    rewards: int = 0
    places: int = 0
    version: int = 0


@dataclass(frozen=True)
class News:
    """What a worker has not been told yet, in the order in which it is to be followed; pickles."""

    prompts: list[bytes] = field(default_factory=list)
    reward: bytes | None = None
    place: bytes | None = None
    moves: list[bytes] = field(default_factory=list)

    @property
    def numbers(self) -> int:
        """Bytes of what says where the mean is."""
        return len(self.place or b"") + sum(map(len, self.moves))


class Ledger:
    """Everything that workers are told, so that one who comes late catches up.

    The way of the mean is kept as its moves since it was last placed. Once they are longer than the mean
    itself, the mean is kept instead.
    """

    def __init__(self) -> None:
        self._prompts: list[bytes] = []
        self._reward: bytes | None = None
        self._rewards = 0
        self._place: bytes | None = None
        self._places = 0
        self._from_version = 0
        self._moves: list[bytes] = []
        self._bytes_of_moves = 0

    def add_prompts(self, examples: Iterable[Example]) -> None:
        self._prompts.append(pickle.dumps(list(examples)))

    def set_reward(self, scorer: Any) -> None:
        """`scorer` is what scores completions, without its processes."""
        self._reward = pickle.dumps(scorer)
        self._rewards += 1

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """The mean has been set, to `Mean.state_dict()`."""
        self._places += 1
        self._begin_at(mean)

    def move(self, move: Move, mean: Mean) -> None:
        """The mean has made a move, to where `mean` is."""
        self._moves.append(pickle.dumps(move))
        self._bytes_of_moves += len(self._moves[-1])
        if self._bytes_of_moves > 2 * mean.nbytes + 4096:
            self._begin_at(mean.state_dict())

    def _begin_at(self, mean: Mapping[str, np.ndarray]) -> None:
        self._place, self._moves, self._bytes_of_moves = pickle.dumps(dict(mean)), [], 0
        self._from_version = int(mean["version"])

    @property
    def known(self) -> Known:
        """What a worker knows that has been told everything."""
        version = self._from_version + len(self._moves)
        return Known(len(self._prompts), self._rewards, self._places, version)

    def news(self, known: Known) -> News:
        """What a worker that knows `known` still has to be told."""
        follows = known.places == self._places and known.version >= self._from_version
        return News(
            prompts=self._prompts[known.prompts :],
            reward=self._reward if known.rewards < self._rewards else None,
            place=None if follows else self._place,
            moves=self._moves[known.version - self._from_version :] if follows else self._moves,
        )
