"""Metrics against brute force, against the library that defines them, and by hand."""

from itertools import combinations, product

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from evolign.metrics import ROUGE, bootstrap, bootstrap_share, has_words, interval, pass_at_k, rouge, wilson


def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_correct_one() -> None:
    for samples in range(1, 8):
        for correct, k in product(range(samples + 1), range(1, samples + 1)):
            choices = list(combinations([1] * correct + [0] * (samples - correct), k))
            expected = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_unbiased_whatever_the_number_of_samples() -> None:
    """The mean over what may be drawn is the true chance 1 - (1 - p)^k, which 1 - (1 - c/n)^k misses."""
    p, k, samples = 0.3, 3, 5
    draws = [
        (p ** sum(draw) * (1 - p) ** (samples - sum(draw)), sum(draw))
        for draw in product((0, 1), repeat=samples)
    ]
    truth = 1 - (1 - p) ** k
    assert sum(chance * pass_at_k(samples, correct, k) for chance, correct in draws) == pytest.approx(truth)
    naive = sum(chance * (1 - (1 - correct / samples) ** k) for chance, correct in draws)
    assert abs(naive - truth) > 0.01


def test_pass_at_k_does_not_overflow_and_refuses_too_few_samples() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="pass@4 needs at least 4 samples per prompt, not 3"):
        pass_at_k(3, 1, 4)


def test_rouge_is_that_of_rouge_score_with_stemming() -> None:
    rng = np.random.default_rng(0)
    words = [
        "the",
        "cats",
        "were",
        "running,",
        "quickly",
        "(the",
        "CAT",
        "ran)",
        "42",
        "houses'",
        "relational:",
        "été\nsky",
        "blue-ish",
    ]
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    for _ in range(200):
        reference, text = (" ".join(rng.choice(words, rng.integers(0, 20))) for _ in range(2))
        expected = {name: score.fmeasure for name, score in scorer.score(reference, text).items()}
        assert rouge(reference, text) == expected


def test_rouge_of_a_case_worked_out_by_hand() -> None:
    """Stems: the cat sat on the mat / the cat lay on mat. Unigrams in common: the cat on mat, 4 of 6 and 5;
    bigrams: "the cat", 1 of 5 and 4; longest common subsequence: the cat on mat, 4 of 6 and 5."""
    found = rouge("The cats sat on the mat.", "the cat lay on MATS")
    assert found == {
        "rouge1": pytest.approx(2 * 4 / (6 + 5)),
        "rouge2": pytest.approx(2 * 1 / (5 + 4)),
        "rougeL": pytest.approx(2 * 4 / (6 + 5)),
    }
    assert rouge("anything", "") == dict.fromkeys(ROUGE, 0.0)


def test_a_text_has_words_exactly_where_it_can_score_against_itself() -> None:
    for text in ("", " \n", "?!", "日本語", "été", "É", "a", "7", "K", "no. 1"):
        assert has_words(text) == (rouge(text, text)["rouge1"] > 0), text


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("Кошка сидела на ковре.", "кошка СИДЕЛА на ковре", 1.0),
        ("Кошка сидела на ковре.", "кошка лежала на ковре", 0.75),
        ("القطة على السجادة", "القطة على السجادة", 1.0),
        ("बिल्ली चटाई पर बैठी", "बिल्ली चटाई पर सोयी", 0.75),
        ("고양이가 앉았다", "고양이가 앉았다", 1.0),
        ("猫坐在垫子上。", "猫坐在垫子上", 1.0),
        ("猫坐在垫上", "狗坐在垫上", 0.8),
        ("ねこが座る", "ねこが座る", 1.0),
        ("แมวนั่ง", "แมวนั่ง", 1.0),
        ("GPT 是 model 四", "gpt 是 models 五", 0.75),
        ("À", "à", 1.0),
    ],
)
def test_rouge_reads_scripts_that_the_library_does_not(reference: str, text: str, expected: float) -> None:
    assert rouge(reference, text)["rougeL"] == pytest.approx(expected)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_intervals_hold_the_truth_in_about_95_of_100_cases() -> None:
    rng = np.random.default_rng(1)
    held = {"accuracy": 0, "reward": 0, "share": 0}
    for seed in range(300):
        right_P = (rng.random(60) < 0.7).astype(float)
        low, high = interval(right_P, "accuracy", seed)
        held["accuracy"] += low <= 0.7 <= high
        low, high = bootstrap(rng.exponential(1.0, 60), seed)
        held["reward"] += low <= 1.0 <= high
        trials_P = rng.integers(0, 3, 60)  # both verdicts of a prompt are the same
        hits_P = trials_P * (rng.random(60) < 0.4)
        low, high = bootstrap_share(hits_P, trials_P, seed)
        held["share"] += low <= 0.4 <= high
    assert all(0.89 <= count / 300 <= 0.99 for count in held.values()), held


def test_scores_that_do_not_apply_are_left_out_of_an_interval() -> None:
    score_P = np.array([1.0, 0.0, 1.0, 1.0])
    with_gaps_P = np.array([1.0, np.nan, 0.0, 1.0, np.nan, 1.0])
    assert interval(with_gaps_P, "accuracy") == interval(score_P, "accuracy") == wilson(3, 4)
    assert interval(with_gaps_P, "reward") == bootstrap(score_P, 0)


def test_a_share_of_nothing_or_everything_is_not_certain() -> None:
    trials_P = np.array([2, 2, 0, 1])
    assert bootstrap_share(np.zeros(4), trials_P, 0) == wilson(0, 3)
    assert bootstrap_share(trials_P.astype(float), trials_P, 0) == wilson(3, 3)


def test_a_share_does_not_depend_on_prompts_that_were_not_asked() -> None:
    hits_P, trials_P = np.array([1.0, 0.0, 2.0]), np.array([2, 2, 2])
    padded = bootstrap_share(np.append(hits_P, 0.0), np.append(trials_P, 0), 3)
    assert padded == bootstrap_share(hits_P, trials_P, 3)


def test_rouge_l_of_long_texts_is_that_of_rouge_score() -> None:
    rng = np.random.default_rng(2)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for size in (1, 63, 64, 65, 150):
        reference, text = (" ".join(rng.choice(list("abcdefgh"), n)) for n in (size, int(size * 1.3) + 1))
        expected = scorer.score(reference, text)["rougeL"].fmeasure
        assert rouge(reference, text)["rougeL"] == expected
