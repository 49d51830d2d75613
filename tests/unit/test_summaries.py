"""The task of short texts keeps its promises, and the model that ships for it starts where it should."""

import re
from typing import Any

import numpy as np
import pytest

from evolign.config import ModelConfig
from evolign.errors import ConfigError
from evolign.tasks.summaries import PLACES, THINGS, VARIANTS, Story, Summaries, distinct_stories

SIZES: dict[str, Any] = {"num_train": 300, "num_validation": 60, "num_test": 60, "num_warmup": 20}
FACTS = re.compile(r"(?P<name>\w+) \w+ \w+ (?P<things>\w+) at the (?P<place>\w+) on \w+\.")


@pytest.fixture(scope="module", params=VARIANTS)
def task(request: pytest.FixtureRequest) -> Summaries:
    return Summaries(variant=request.param, **SIZES)


def test_a_person_a_thing_and_a_place_together_are_in_one_split_alone(task: Summaries) -> None:
    triples = [
        {FACTS.fullmatch(str(example.completion)).groups() for example in split}  # type: ignore[union-attr]
        for split in (task.train + task.warmup, task.validation, task.test)
    ]
    assert not triples[0] & triples[1] and not triples[0] & triples[2] and not triples[1] & triples[2]


def test_every_fact_of_a_summary_is_in_the_text(task: Summaries) -> None:
    for example in task.train:
        for word in str(example.completion).rstrip(".").split():
            assert word in re.split(r"\W+", str(example.prompt)) or word in ("at", "the", "on")


def test_the_variants_share_no_thing_no_place_and_no_sentence() -> None:
    assert not set(THINGS["plain"]) & set(THINGS["ood"])
    assert not set(PLACES["plain"]) & set(PLACES["ood"])
    plain, other = (distinct_stories("test", variant, 60, 0) for variant in VARIANTS)
    assert not {s for story in plain for s in story.sentences} & {
        s for story in other for s in story.sentences
    }
    assert np.mean([len(s.sentences) for s in other]) > np.mean([len(s.sentences) for s in plain])


def test_a_story_by_hand() -> None:
    facts = {"name": "Mia", "verb": "bought", "count": "three", "things": "lamps", "place": "market"}
    rival = {
        "other": "Tom",
        "verb2": "sold",
        "count2": "two",
        "things2": "maps",
        "place2": "zoo",
        "day": "Monday",
    }
    sentences = ("Mia went to the market on Monday.", "She bought three lamps.", "Tom sold two maps.")
    story = Story(sentences, facts | rival, sentences[1])
    assert story.prompt == f"{' '.join(sentences)}\nSummary:\n"
    assert story.summary == "Mia bought three lamps at the market on Monday."
    assert story.wrong == "Mia sold two maps at the market on Monday."
    assert (story.copy, story.verbose) == (sentences[2], " ".join(sentences[:2]))
    assert story.summary_with("name", "place") == "Tom bought three lamps at the zoo on Monday."


def test_a_split_that_has_too_few_texts_and_an_unknown_variant_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"unknown variant of the task summaries 'odd'.*Did you mean 'ood'"):
        Summaries(variant="odd")
    monkeypatch.setattr("evolign.tasks.summaries.ATTEMPTS_PER_TEXT", 0)
    with pytest.raises(ConfigError, match="too few texts of the variant 'plain' for 10 rows"):
        distinct_stories("test", "plain", 10, 0)


def test_the_embedded_model_spells_every_text_within_its_limits(task: Summaries) -> None:
    from transformers import AutoTokenizer

    from evolign.policy.base_model import source

    tokenizer = AutoTokenizer.from_pretrained(source("embedded:summaries"))
    for example in task.train + task.test:
        prompt, summary = (tokenizer(str(text))["input_ids"] for text in (example.prompt, example.completion))
        assert len(prompt) <= 80 and len(summary) <= 24
        assert tokenizer.decode(summary) == example.completion


def test_the_embedded_model_is_fluent_but_mostly_poor() -> None:
    from evolign.commands.evaluate import evaluate

    found = evaluate("embedded:summaries", task="summaries", overrides=["task.num_train=10"])
    assert 0.35 < found.metrics["reward_greedy"] < 0.55
    assert found.metrics["truncated_greedy"] < 0.02
    from evolign.policy.base_model import load_base_model

    assert load_base_model(ModelConfig(name="embedded:summaries")).model.num_parameters() < 1_000_000
