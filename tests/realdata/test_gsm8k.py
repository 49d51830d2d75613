"""The published GSM8K files load, split and grade as they should."""

import os
import re

import numpy as np
import pytest

from evolign.rewards.scoring import Scorer
from evolign.tasks.base import prompt_key
from evolign.tasks.gsm8k import Gsm8k

pytestmark = pytest.mark.skipif(
    "EVOLIGN_DATA" not in os.environ,
    reason="needs the GSM8K files; set EVOLIGN_DATA to the folder that has them",
)


@pytest.fixture(scope="module")
def gsm8k() -> Gsm8k:
    folder = "$EVOLIGN_DATA/gsm8k"
    return Gsm8k(train=f"{folder}/train.jsonl", test=f"{folder}/test.jsonl")


def test_the_splits_have_the_sizes_of_the_paper_but_for_validation(gsm8k: Gsm8k) -> None:
    assert len(gsm8k.warmup) == 1495
    assert len(gsm8k.train) == 5978 - len(gsm8k.validation)
    assert len(gsm8k.test) == 1319
    everything = gsm8k.warmup + gsm8k.validation + gsm8k.train + gsm8k.test
    assert len({prompt_key(example.prompt) for example in everything}) == 7473 + 1319


def test_worked_solutions_end_in_a_box_and_hold_no_annotations(gsm8k: Gsm8k) -> None:
    for example in gsm8k.warmup:
        assert example.completion is not None
        assert "<<" not in example.completion and "####" not in example.completion
        assert example.completion.endswith(f"\\boxed{{{example.columns['answer']}}}.")
    assert all(re.fullmatch(r"-?[\d,]+(\.\d+)?", e.columns["answer"]) for e in gsm8k.train)


def test_all_gold_answers_of_the_test_file_score_one_and_shuffled_ones_hardly_any(
    gsm8k: Gsm8k,
) -> None:
    golds = [f"so it is \\boxed{{{example.columns['answer']}}}." for example in gsm8k.test]
    marked = [f"so it is\n#### {example.columns['answer']}" for example in gsm8k.test]
    shuffled = [golds[i] for i in np.random.default_rng(0).permutation(len(golds))]
    with Scorer(gsm8k.reward, workers=2, timeout_seconds=30) as scorer:
        assert (scorer.score(gsm8k.test, golds).values == 1).all()
        assert (scorer.score(gsm8k.test, marked).values == 1).all()
        # Small numbers are frequent answers: two random rows agree about once in a hundred times.
        assert scorer.score(gsm8k.test, shuffled).values.mean() < 0.05


def test_all_worked_solutions_score_one(gsm8k: Gsm8k) -> None:
    solutions = [str(example.completion) for example in gsm8k.warmup]
    with Scorer(gsm8k.reward, workers=2, timeout_seconds=30) as scorer:
        assert (scorer.score(gsm8k.warmup, solutions).values == 1).all()
