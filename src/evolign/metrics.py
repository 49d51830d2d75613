"""Metrics of completions and their intervals: pure functions of scores and texts.

ROUGE F1 (Lin 2004), the unbiased pass@k (Chen et al. 2021, equation 1), Wilson's and the bootstrap's 95 %
intervals.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from evolign.seeding import stream

LOG_RATIO_BOUND = 20.0
"""Log ratios are clipped to this before they are exponentiated, so that nothing overflows."""
Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 2000
"""Resamples of a bootstrap."""
ROUGE = ("rouge1", "rouge2", "rougeL")
ROUNDING = 1e-12
"""Figures that differ by less, relative to the largest, differ by rounding alone."""
STEMS_KEPT = 100_000
"""Size of the cache of stems."""
FIRST_GREEK = "\u0370"
"""Letters before it are Latin."""
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "IDEOGRAPHIC")
"""Scripts that write words without spaces between them, as Unicode names their characters."""
TEXTS_KEPT = 4096
"""Size of the cache of texts' words: references recur."""


def levelled(values: np.ndarray) -> np.ndarray:
    """The values, with those that differ by rounding alone made equal; NaN stays NaN.

    Whether two rewards or two means of rewards are equal decides what is learnt from them.

    >>> levelled(np.array([0.1 + 0.2, 0.3, 0.5])).tolist()
    [0.3, 0.3, 0.5]
    """
    flat = np.sort(values[~np.isnan(values)], axis=None)
    if not len(flat):
        return values
    starts = np.append(True, np.diff(flat) > ROUNDING * np.abs(flat).max())
    level = flat[starts]
    at = np.clip(np.searchsorted(level, values, side="right") - 1, 0, None)
    return np.where(np.isnan(values), values, level[at])


def interval(score_P: np.ndarray, metric: str, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean; NaN scores (reward not applicable) are left out.

    Wilson's is for shares: if a score is neither 0 nor 1, such as a failure score, the bootstrap is used.
    """
    score_P = score_P[~np.isnan(score_P)]
    if metric == "accuracy" and np.isin(score_P, (0.0, 1.0)).all():
        return wilson(float(score_P.sum()), len(score_P))
    return bootstrap(score_P, seed)


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    spread = Z * np.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def bootstrap(score_P: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a mean."""
    rng = stream(seed, "bootstrap")
    means = rng.choice(score_P, (RESAMPLES, len(score_P))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_share(hits_P: np.ndarray, trials_P: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of sum(hits) / sum(trials), resampling the P prompts.

    The trials of one prompt depend on each other, so they are drawn together. Prompts without a trial are
    left out. Where all trials hit, or none does, there is nothing to resample: it is Wilson's interval of as
    many prompts.
    """
    asked = trials_P > 0
    hits_P, trials_P = hits_P[asked], trials_P[asked]
    if (hits_P == 0).all() or (hits_P == trials_P).all():
        return wilson(float((hits_P > 0).sum()), len(hits_P))
    rng = stream(seed, "bootstrap")
    drawn = rng.integers(len(hits_P), size=(RESAMPLES, len(hits_P)))
    low, high = np.quantile(hits_P[drawn].sum(axis=1) / trials_P[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of `k` samples is correct, given that `correct` of `samples` are.

    Unbiased: 1 - C(samples - correct, k) / C(samples, k), by the product of Chen et al. 2021 (equation 1,
    figure 3), which does not overflow. Raises ValueError where `k` exceeds `samples`.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples per prompt, not {samples}")
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def has_words(text: str) -> bool:
    """Whether ROUGE finds anything to compare in `text`: a letter or a digit of any script."""
    return bool(_words(text))


def rouge(reference: str, text: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 of `text` against `reference`, 0 to 1: those of rouge-score, `use_stemmer=True`.

    Words are lower-cased, cut at whatever is no letter a to z or digit, and stemmed by Porter's algorithm
    where they have more than three letters. The library knows no others; here words of other scripts than
    Latin are read too, and every character of a script that has no spaces between words. ROUGE-L takes the
    text as one sequence, line breaks included. The longest common subsequence is ours: the library's takes
    most of the time of an evaluation.
    """
    from rouge_score.scoring import fmeasure

    gold, words = _words(reference), _words(text)
    found = {name: float(score.fmeasure) for name, score in _ngram_scorer().score(gold, words).items()}
    common = _common_subsequence(gold, words)
    found["rougeL"] = float(fmeasure(common / len(words), common / len(gold))) if common else 0.0
    return found


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits: Allison and Dix 1986."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    row = 0
    for word in other:
        candidates = row | places.get(word, 0)
        row = candidates & ((candidates - (row << 1 | 1)) ^ candidates)
    return row.bit_count()


@lru_cache(TEXTS_KEPT)
def _words(text: str) -> tuple[str, ...]:
    if not (latin := text.isascii()):
        text = unicodedata.normalize("NFC", text)
    found: list[str] = []
    for script, run in [("latin", text)] if latin else groupby(text, _script):
        piece = "".join(run)
        found += (
            _latin_words(piece) if script == "latin" else [piece.lower()] if script == "spaced" else piece
        )
    return tuple(found or re.findall(r"[^\W_]+", text.lower()))  # of accented letters only: "É", "à"


def _latin_words(text: str) -> list[str]:
    from rouge_score import tokenize

    words: list[str] = tokenize.tokenize(text, _stemmer())
    return words


@lru_cache(None)
def _script(character: str) -> str:
    """Who cuts words at a character: rouge-score ("latin", and all punctuation), spaces, or nobody."""
    if character < FIRST_GREEK or unicodedata.category(character)[0] not in "LMN":
        return "latin"
    name = unicodedata.name(character, "")
    if name.startswith("LATIN"):
        return "latin"
    return "unspaced" if name.startswith(UNSPACED) else "spaced"


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    class Stemmer:
        stem = staticmethod(lru_cache(STEMS_KEPT)(PorterStemmer().stem))

    return Stemmer


@cache
def _ngram_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        def tokenize(self, words: Sequence[str]) -> Sequence[str]:
            return words

    return RougeScorer(["rouge1", "rouge2"], tokenizer=Words())
