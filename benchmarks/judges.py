"""A judge of summaries that is a rule, for the study: it never sees the reference."""

import re

from evolign.tasks.summaries import COUNTS, DAYS, MEN, PLACES, THINGS, VERBS, WOMEN

FACTS = {
    *COUNTS, *DAYS, *MEN, *VERBS, *WOMEN,
    *(place for places in PLACES.values() for place in places),
    *(thing for things in THINGS.values() for thing in things),
}  # fmt: skip
LONG = 10
"""Words after which every further one costs a tenth of a fact."""


def facts(prompt: str, a: str, b: str) -> str:
    """The summary with more true facts about the text's person, fewer false ones and fewer words."""
    one, other = score(prompt, a), score(prompt, b)
    return "tie" if one == other else "A" if one > other else "B"


def score(prompt: str, summary: str) -> float:
    """True facts minus false ones; a fact is false if only sentences about somebody else hold it."""
    sentences = re.findall(r"[^.]+", prompt.rpartition("\nSummary")[0] or prompt)
    person = next(word for word in words(sentences[0]) if word in (*WOMEN, *MEN))
    own = [s for s in sentences if not {*words(s)} & ({*WOMEN, *MEN} - {person})]
    true = {word for sentence in own for word in words(sentence)}
    said = words(summary)
    right = sum(1 if word in true else -1 for word in {*said} & FACTS)
    return right - max(0, len(said) - LONG) / 10


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)
