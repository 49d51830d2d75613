"""Every registered reward keeps TRL's signature, as `evolign.rewards` describes it."""

import pickle
from typing import Any

import pytest

from evolign.rewards import REWARDS
from evolign.rewards.loading import Reward, load_reward

PROMPTS = ["12 + 30 = ?", "What is 6 * 7?"]
RIGHT: dict[str, str] = {
    "arithmetic_answer": "12 + 30 = 42 #### 42",
    "gsm8k_answer": "The sum is 42.",
    "math_answer": r"The sum is \boxed{42}.",
    "rouge_l": "the sum is forty two",
}
"""A completion to which the reward gives 1, where the columns are those of `columns`."""
WRONG = "I like turtles"


def columns(count: int = 2) -> dict[str, list[Any]]:
    return {"answer": ["42"] * count, "reference": ["the sum is forty two"] * count, "unused": [None] * count}


@pytest.fixture(params=sorted(REWARDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reward(name: str) -> Reward:
    return load_reward(name)


def test_every_reward_has_a_case_here() -> None:
    assert RIGHT.keys() == REWARDS.keys()


def test_there_is_one_finite_number_per_completion_and_columns_that_it_does_not_know_are_ignored(
    name: str, reward: Reward
) -> None:
    scores = reward(prompts=PROMPTS, completions=[RIGHT[name], WRONG], **columns())
    assert isinstance(scores, list) and len(scores) == 2
    right, wrong = scores
    assert type(right) is float and type(wrong) is float
    assert right == 1.0 and 0.0 <= wrong < 1.0


def test_it_is_a_pure_function_of_each_completion(name: str, reward: Reward) -> None:
    whole = reward(prompts=PROMPTS, completions=[RIGHT[name], WRONG], **columns())
    assert whole == reward(prompts=PROMPTS, completions=[RIGHT[name], WRONG], **columns())
    backwards = reward(prompts=PROMPTS[::-1], completions=[WRONG, RIGHT[name]], **columns())
    assert whole == backwards[::-1]
    alone = [
        reward(prompts=[p], completions=[c], **columns(1))[0]
        for p, c in zip(PROMPTS, [RIGHT[name], WRONG], strict=True)
    ]
    assert whole == alone


def test_nothing_that_it_is_given_is_changed(name: str, reward: Reward) -> None:
    given = {"prompts": list(PROMPTS), "completions": [RIGHT[name], WRONG], **columns()}
    before = pickle.dumps(given)
    reward(**given)
    assert pickle.dumps(given) == before


def test_a_chat_completion_scores_what_its_text_scores(name: str, reward: Reward) -> None:
    texts = [RIGHT[name], WRONG]
    chat = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(prompts=PROMPTS, completions=chat, **columns()) == reward(
        prompts=PROMPTS, completions=texts, **columns()
    )


def test_it_does_not_apply_where_there_is_nothing_to_compare_with(name: str, reward: Reward) -> None:
    missing = {column: [None, *values[1:]] for column, values in columns().items()}
    scores = reward(prompts=PROMPTS, completions=[RIGHT[name], RIGHT[name]], **missing)
    assert scores == [None, 1.0]


@pytest.mark.parametrize("gold", [42, 42.0])
def test_an_answer_may_be_a_number(name: str, reward: Reward, gold: float) -> None:
    if name == "rouge_l":
        pytest.skip("rouge_l compares texts")
    given = columns() | {"answer": [gold, gold]}
    assert reward(prompts=PROMPTS, completions=[RIGHT[name], WRONG], **given)[0] == 1.0


def test_the_empty_completion_is_worth_nothing(name: str, reward: Reward) -> None:
    assert reward(prompts=PROMPTS, completions=["", ""], **columns()) == [0.0, 0.0]
