"""Summaries: short texts about one person's day, each with a summary of one sentence.

    Text     Mia went to the market on Monday. Tom sold two maps. She bought three lamps. It was cold.
    Summary  Mia bought three lamps at the market on Monday.

A text names its person, the place and the day in the first sentence. Then it says, in any order, what that
person did, what somebody else did, and up to two things that do not matter: the weather, the place, the mood,
or where the other one was. The summary keeps five facts: who, did what, how many of what, where and when.
There are three kinds of worse summaries:

    copy     It was cold.                                                       (the last sentence)
    verbose  Mia went to the market on Monday. She bought three lamps.
    wrong    Mia sold two maps at the market on Monday.                         (what the other one did)

Train, validation and test are disjoint by construction: a person, a thing and a place together belong to
exactly one split, by a hash. The variant "ood" has the same kind of summary and other texts: other sentences,
more of them, and things and places that no text of the variant "plain" names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from evolign.errors import ConfigError, unknown_name
from evolign.seeding import stream
from evolign.tasks.generated import pick, split_of
from evolign.types import Example, Rewards

T = TypeVar("T")

VARIANTS = ("plain", "ood")
WORSE = ("copy", "verbose", "wrong")
INSTRUCTION = "\nSummary:\n"
SUMMARY = "{name} {verb} {count} {things} at the {place} on {day}."

WOMEN = ("Mia", "Ana", "Lea", "Zoe", "Eva", "Ida")
MEN = ("Tom", "Ben", "Max", "Sam", "Leo", "Jon")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
VERBS = ("bought", "sold", "found", "lost", "painted", "counted")
MOODS = ("happy", "tired", "busy", "hungry", "calm")
WEATHERS = ("cold", "warm", "windy", "rainy", "foggy")
LOOKS = ("full", "quiet", "empty", "loud", "dark")
THINGS = {
    "plain": (
        "lamps", "maps", "coins", "books", "cards", "pens", "apples", "stamps", "shells", "cups", "hats",
        "keys", "boxes", "plates", "ropes", "stones",
    ),
    "ood": ("drums", "kites", "masks", "pears", "bells", "nets", "tents", "rings"),
}  # fmt: skip
PLACES = {
    "plain": (
        "market", "park", "school", "station", "beach", "library", "museum", "garden", "harbour", "office",
        "farm", "church",
    ),
    "ood": ("castle", "zoo", "hotel", "mill", "cafe", "forest"),
}  # fmt: skip

OPENINGS = {
    "plain": ("{name} went to the {place} on {day}.", "On {day} {name} was at the {place}."),
    "ood": ("At the {place}, on {day}, was {name}.", "It was {day} and {name} was there, at the {place}."),
}
DEEDS = {
    "plain": ("{She} {verb} {count} {things}.", "{name} {verb} {count} {things} there."),
    "ood": ("There {she} {verb} {count} {things}.", "What {she} {verb}: {count} {things}."),
}
RIVALS = {
    "plain": ("{other} {verb2} {count2} {things2}.", "There {other} {verb2} {count2} {things2}."),
    "ood": ("Not {name} but {other} {verb2} {count2} {things2}.", "Once {other} {verb2} {count2} {things2}."),
}
ASIDES = {
    "plain": (
        "It was {weather}.", "The {place} was {look}.", "{name} was {mood}.", "{other} was at the {place2}.",
    ),
    "ood": (
        "It was {look}, the {place}.", "So {mood} was {name}.", "{weather} it was.",
        "On {day} {other} was at the {place2}.",
    ),
}  # fmt: skip
NUM_ASIDES = {"plain": (0, 2), "ood": (1, 2)}
"""The least and the most sentences that do not matter."""

ATTEMPTS_PER_TEXT = 200  # draws without a new text, after which a split counts as exhausted


@dataclass(frozen=True)
class Story:
    """A text to summarise, its summary, and three worse ones."""

    sentences: tuple[str, ...]
    facts: Mapping[str, str]
    """What they say: name, verb, count, things, place, day; and of the other: other, verb2, count2 ..."""
    deed: str
    """The sentence that says what the person did."""

    @property
    def prompt(self) -> str:
        return " ".join(self.sentences) + INSTRUCTION

    @property
    def summary(self) -> str:
        return self.summary_with()

    @property
    def copy(self) -> str:
        return self.sentences[-1]

    @property
    def verbose(self) -> str:
        return f"{self.sentences[0]} {self.deed}"

    @property
    def wrong(self) -> str:
        return self.summary_with("verb", "count", "things")

    def summary_with(self, *of_the_other: str) -> str:
        """The summary, with some facts of the other person: of name, verb, count, things and place."""
        false = {fact: self.facts["other" if fact == "name" else f"{fact}2"] for fact in of_the_other}
        return SUMMARY.format(**{**self.facts, **false})


class Summaries:
    """The task: texts of a variant, "plain" or "ood", with reference summaries and worse ones.

    Every row has its summary as `completion` and a worse one as `rejected`. The warm-up rows are of the
    train split and not in `train`. Raises ConfigError if the variant is unknown or a split has too few texts.
    """

    metric = "reward"

    def __init__(
        self,
        *,
        variant: str = "plain",
        num_train: int = 1000,
        num_validation: int = 100,
        num_test: int = 200,
        num_warmup: int = 64,
        reward: Rewards = "rouge_l",
        seed: int = 0,
    ) -> None:
        self.reward = reward
        if variant not in VARIANTS:
            raise unknown_name("variant of the task summaries", variant, VARIANTS)
        learning = distinct_stories("train", variant, num_warmup + num_train, seed)
        validation = distinct_stories("validation", variant, num_validation, seed)
        test = distinct_stories("test", variant, num_test, seed)
        self.warmup = _examples("warmup", learning[:num_warmup], seed)
        self.train = _examples("train", learning[num_warmup:], seed)
        self.validation = _examples("validation", validation, seed)
        self.test = _examples("test", test, seed)


def distinct_stories(split: str, variant: str, count: int, seed: int) -> list[Story]:
    """`count` stories of a split, no text twice."""
    rng = stream(seed, "summaries", variant, split)
    stories: dict[str, Story] = {}
    for _ in range(count * ATTEMPTS_PER_TEXT):
        if len(stories) == count:
            return list(stories.values())
        story = draw_story(rng, split, variant)
        stories.setdefault(story.prompt, story)
    raise ConfigError(
        f"the {split} split of the task summaries has too few texts of the variant {variant!r} for"
        f" {count} rows; ask for fewer"
    )


def draw_story(rng: np.random.Generator, split: str, variant: str) -> Story:
    """A random story of a variant from a split."""
    facts = _draw_facts(rng, split, variant)
    opening = pick(rng, OPENINGS[variant]).format(**facts)
    deed = pick(rng, DEEDS[variant]).format(**facts)
    rival = pick(rng, RIVALS[variant]).format(**facts)
    least, most = NUM_ASIDES[variant]
    count = int(rng.integers(least, most + 1))
    asides = [aside.format(**facts) for aside in _several(rng, ASIDES[variant], count)]
    later = _several(rng, (deed, rival, *asides), 2 + count)
    sentences = (opening, *(sentence[0].upper() + sentence[1:] for sentence in later))
    return Story(sentences, facts, deed)


def _draw_facts(rng: np.random.Generator, split: str, variant: str) -> dict[str, str]:
    while True:
        people = [
            pick(rng, WOMEN),
            pick(rng, MEN),
        ]  # one of each, so that "she" and "he" are never in doubt
        name, other = _several(rng, people, 2)
        things, things2 = _several(rng, THINGS[variant], 2)
        place, place2 = _several(rng, PLACES[variant], 2)
        if split_of(f"{name} {things} {place}") == split:
            break
    count, count2 = _several(rng, COUNTS, 2)
    verb, verb2 = _several(rng, VERBS, 2)
    she = "she" if name in WOMEN else "he"
    return {
        "name": name, "verb": verb, "count": count, "things": things, "place": place, "day": pick(rng, DAYS),
        "other": other, "verb2": verb2, "count2": count2, "things2": things2, "place2": place2,
        "she": she, "She": she.title(),
        "mood": pick(rng, MOODS), "weather": pick(rng, WEATHERS), "look": pick(rng, LOOKS),
    }  # fmt: skip


def _several(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """`count` different options in random order."""
    return [options[i] for i in rng.permutation(len(options))[:count]]


def _examples(split: str, stories: Sequence[Story], seed: int) -> list[Example]:
    """The stories as examples, each with a worse summary of a random kind."""
    rng = stream(seed, "summaries", "rejected", split)
    return [
        Example(
            id=f"{split}-{i}",
            prompt=story.prompt,
            completion=story.summary,
            rejected=getattr(story, pick(rng, WORSE)),
        )
        for i, story in enumerate(stories)
    ]
