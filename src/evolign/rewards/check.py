"""`evolign check`: whether a task's reward scores right completions higher than garbage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolign.rewards.grading import final_answer
from evolign.rewards.scoring import Scorer
from evolign.seeding import stream
from evolign.tasks.base import Task
from evolign.tasks.cells import text
from evolign.types import Example

KINDS = ("gold", "empty", "shuffled", "random", "bare", "told")
GARBAGE = KINDS[1:4]
RANDOM_WORDS = (
    "lorem",
    "0.7310586",
    "{",
    "the",
    "=",
    "\\frac",
    "?",
    "no",
    "####x",
    "\n",
    "\\boxed{",
    "ä",
)
COINCIDENCE = 0.5
"""Share of rows whose gold another row's gold may equal: yes/no answers coincide half the time."""


@dataclass(frozen=True)
class RewardReport:
    """Mean rewards of known completions, and what is wrong with them."""

    num_examples: int
    """Examples with a gold completion or answer that were scored."""
    gold: float
    empty: float
    shuffled: float
    """Mean reward of each example with another example's gold completion."""
    random: float
    bare: float
    """The answer alone, unmarked; NaN where the rows have no column `answer`."""
    told: float
    """The answer as a model gives it: "The answer is **18**."; NaN as for `bare`."""
    parts: Mapping[str, float]
    """Mean of each reward over gold completions, where there are several."""
    deterministic: bool
    """Scoring the same completions again gave the same rewards."""
    problems: tuple[str, ...]
    """Sentences; none if the reward is fit for use."""
    notes: tuple[str, ...] = ()
    """Sentences about what the user should know of a reward that is fit for use."""

    @property
    def ok(self) -> bool:
        return not self.problems


def gold_completion(example: Example) -> str | None:
    r"""A completion that the reward must score high; None if the example has no reference or answer.

    It is the reference completion, else the column `solution` (TRL's name), else the column
    `answer`, marked as the answer in the two ways that are customary: `\boxed{N}` and `#### N`.
    """
    if example.completion is not None:
        return example.completion
    if "solution" in example.columns:
        return str(example.columns["solution"])
    answer = bare_answer(example)
    return None if answer is None else f"The answer is \\boxed{{{answer}}}.\n#### {answer}"


def bare_answer(example: Example) -> str | None:
    """The answer of the column `answer`, out of its solution where it has one; None where it is no text."""
    try:
        answer = text(example.columns.get("answer"))
    except ValueError:
        return None
    return final_answer(answer).text or None


def check_reward(
    task: Task,
    scorer: Scorer,
    num_examples: int = 64,
    encode: Callable[[str], Sequence[int]] | None = None,
) -> RewardReport:
    """Score gold completions and garbage of up to `num_examples` of the task's examples.

    `encode` gives the tokens of a completion, for rewards that take them.

    With `task.metric` "accuracy" gold must score 1 and empty or random text 0; otherwise gold must
    score more than each kind of garbage on average. Raises what `scorer.score` raises.
    """
    known = [example for example in (*task.warmup, *task.train) if gold_completion(example)]
    examples = known[:num_examples]
    if not examples:
        return _report(task, [], {kind: np.zeros(0) for kind in KINDS}, deterministic=True, parts={})
    gold = [str(gold_completion(example)) for example in examples]
    texts: dict[str, Sequence[str | None]] = {
        "gold": gold,
        "empty": [""] * len(gold),
        "shuffled": [_another(gold, i) for i in range(len(gold))],
        "random": _random_texts(len(gold)),
        "bare": [bare_answer(example) for example in examples],
        "told": [_told(bare_answer(example)) for example in examples],
    }
    places = [(kind, i) for kind in KINDS for i in range(len(gold)) if texts[kind][i] is not None]
    repeated, joined = [examples[i] for _, i in places], [str(texts[kind][i]) for kind, i in places]
    tokens = None if encode is None else [encode(said) for said in joined]
    first, second = scorer.score(repeated, joined, tokens), scorer.score(repeated, joined, tokens)
    values = {kind: np.full(len(gold), np.nan) for kind in KINDS}
    for (kind, i), value in zip(places, first.values, strict=True):
        values[kind][i] = value
    same = np.array_equal(first.values, second.values, equal_nan=True)
    is_gold = np.array([kind == "gold" for kind, _ in places])
    parts = {name: _mean(part[is_gold]) for name, part in first.several.items()}
    return _report(task, examples, values, deterministic=same, parts=parts)


def _another(gold: Sequence[str], i: int) -> str:
    """The next gold that is not that of row `i`; random text where all are equal."""
    others = (text for text in (*gold[i + 1 :], *gold[:i]) if text != gold[i])
    return next(others, _random_texts(1)[0])


def _told(answer: str | None) -> str | None:
    """The answer as a model gives it."""
    return None if answer is None else f"The answer is **{answer}**."


def _report(
    task: Task,
    examples: Sequence[Example],
    values: dict[str, np.ndarray],
    *,
    deterministic: bool,
    parts: Mapping[str, float],
) -> RewardReport:
    mean = {kind: _mean(values[kind]) for kind in KINDS}
    problems = []
    if not examples:
        problems.append("no example holds a completion, a solution or an answer, so nothing could be checked")
    if not deterministic:
        problems.append("the reward differs between two calls; it must be a pure function")
    if task.metric == "accuracy" and examples:
        wrong = [e.id for e, v in zip(examples, values["gold"], strict=True) if v != 1]
        if wrong:
            problems.append(
                f"{len(wrong)} of {len(examples)} gold completions do not score 1, for instance"
                f" that of example {wrong[0]!r}"
            )
        for kind, limit in (("empty", 0.0), ("random", 0.0), ("shuffled", COINCIDENCE)):
            if mean[kind] > limit:
                problems.append(f"{kind} completions score {mean[kind]:.3g} on average")
    elif examples and np.isnan(mean["gold"]):
        problems.append("the reward returned None for every gold completion")
    else:
        for kind in GARBAGE:
            if mean[kind] >= mean["gold"]:
                problems.append(
                    f"{kind} completions score {mean[kind]:.3g} on average, gold ones no more"
                    f" ({mean['gold']:.3g})"
                )
    notes = [
        f"{words} scores {mean[kind]:.2f}, gold {mean['gold']:.2f}: prompts or the warm start must teach the"
        " form that the reward reads"
        for kind, words in (("bare", "the bare answer"), ("told", '"The answer is **...**."'))
        if mean[kind] < mean["gold"]
    ]
    return RewardReport(
        len(examples),
        **mean,
        parts=parts,
        deterministic=deterministic,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _mean(values: np.ndarray) -> float:
    """The mean over those to which the reward applies, NaN where there are none."""
    applicable = values[~np.isnan(values)]
    return float(applicable.mean()) if len(applicable) else float("nan")


def _random_texts(count: int) -> list[str]:
    rng = stream(0, "check", "random texts")
    return [" ".join(rng.choice(RANDOM_WORDS, size=12)) for _ in range(count)]
