"""Scores that came with the completions: the workers have run the reward on what they have written."""

from collections.abc import Sequence

import numpy as np

from evolign.engines.ray.pieces import WritePiece
from evolign.engines.ray.worker import Written
from evolign.rewards.calling import TrainerState
from evolign.rewards.scores import Scores, added
from evolign.rewards.scoring import Key, Scorer, TokenIds, distinct_keys
from evolign.types import Cost, Example


class PoolScorer:
    """Looks up the scores of the completions that the pool has written last; `local` scores the others.

    A completion that several workers have scored counts once, as with `Scorer`: a reward is a pure function.
    """

    def __init__(self, local: Scorer) -> None:
        self._local = local
        self.name = local.name
        self.state = TrainerState()
        self._found: dict[Key, tuple[Scores, int]] = {}
        self._answers: list[Scores] = []

    def at(self, state: TrainerState) -> None:
        """See `Scoring.at`: workers are told with their next piece."""
        self.state = state
        self._local.at(state)

    def keep(self, pieces: Sequence[WritePiece], answers: Sequence[Written], samples: int) -> None:
        """Remember the scores of one `generate`, and forget those before it."""
        self._found.clear()
        self._answers = [answer.scores for answer in answers if answer.scores is not None]
        for piece, answer in zip(pieces, answers, strict=True):
            if answer.scores is None:
                continue
            names = [name for row in piece.names_NP for name in row for _ in range(samples)]
            for i, key in enumerate(zip(names, answer.texts, answer.token_ids, strict=True)):
                self._found.setdefault(key, (answer.scores, i))

    def score(
        self, examples: Sequence[Example], texts: Sequence[str], token_ids: TokenIds | None = None
    ) -> Scores:
        """See `Scorer.score`. `seconds` is the sum over workers."""
        keys = distinct_keys(examples, texts, token_ids)
        if not keys or not all(key in self._found for key in keys):
            return self._local.score(examples, texts, token_ids)
        found = [self._found[key] for key in keys]
        failed = [scores.failures[i] for scores, i in (self._found[key] for key in dict.fromkeys(keys))]
        parts = self._answers[0].parts
        columns = dict.fromkeys(name for scores in self._answers for name in scores.columns)
        return Scores(
            values=np.array([scores.values[i] for scores, i in found], dtype=np.float64),
            cost=Cost(timeouts=failed.count("timeout"), crashes=failed.count("crash")),
            seconds=sum(scores.seconds for scores in self._answers),
            failures=[scores.failures[i] for scores, i in found],
            parts={name: np.array([scores.parts[name][i] for scores, i in found]) for name in parts},
            logged=added(scores.logged for scores in self._answers),
            columns={
                name: [scores.columns[name][i] if name in scores.columns else None for scores, i in found]
                for name in columns
            },
        )
