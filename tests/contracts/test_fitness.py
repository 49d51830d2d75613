"""Every registered fitness keeps the protocol of `evolign.evolution.fitness.base.Fitness`."""

import json
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evolign.config.recipe import parse
from evolign.engines.fake import FakeEngine
from evolign.evolution.fitness import FITNESS, build_fitness
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.types import Direction, Example, Population

DIM = 3
TASK: Any = SimpleNamespace(train=[Example(str(i), f"prompt {i}", columns={"number": i}) for i in range(4)])
WORDS = ["good", "bad"]


class Speaker(FakeEngine):
    """Says "good" and "bad" in turn; a candidate is better the larger its first coordinate is.

    Completions of a candidate alone say how good it is; under likelihood fitness it makes "good" likelier.
    """

    def generate(self, population: Any, prompts_NP: Any, sampling: Any) -> Any:
        rollouts = super().generate(population, prompts_NP, sampling)
        if sampling.samples_per_prompt > 1:
            for n, p, s in np.ndindex(rollouts.text_NPS.shape):
                rollouts.text_NPS[n, p, s] = WORDS[s % 2]
                rollouts.token_ids_NPS[n, p, s] = tuple(map(ord, WORDS[s % 2]))
        return rollouts


class Reader(Scoring):
    """A scorer without a process: "good" is worth 1, a number itself."""

    def score(self, examples: Any, texts: Sequence[str], token_ids: object = None) -> Scores:
        worth = {"good": 1.0, "bad": 0.0}
        return Scores(np.array([worth[text] if text in worth else float(text) for text in texts]))


def worth(theta_D: np.ndarray, example: Example) -> str:
    return repr(float(theta_D[0]))


def logprob(theta_D: np.ndarray, example: Example, token_ids: tuple[int, ...]) -> float:
    return float(theta_D[0]) * (1 if len(token_ids) == len("good") else -1) - 1.0


@pytest.fixture(params=sorted(FITNESS))
def fitness(request: pytest.FixtureRequest) -> Any:
    engine = Speaker(worth, logprob, dim=DIM)
    engine.add_prompts(TASK.train)
    sampling = {"samples_per_prompt": 4 if request.param == "likelihood" else 1}
    tree = {
        "fitness": {"name": request.param},
        "sampling": sampling | {"max_new_tokens": 8},
        "strategy": {"name": "openai_es", "population": 6},
        "evolution": {"prompts_per_generation": 3},
    }
    tree["fitness"] |= {"divergence": 1.0} if request.param == "likelihood" else {}
    return build_fitness(parse(tree), TASK, engine, Reader())  # type: ignore[arg-type]


def population(first: list[float]) -> Population:
    theta_ND = np.zeros((len(first), DIM))
    theta_ND[:, 0] = first
    return Population(theta_ND, with_mean=True)


FIRST = [0.1, -0.1, 0.05, -0.05, 0.15, -0.15]


def test_there_is_one_finite_number_per_candidate_and_better_candidates_have_more(fitness: Any) -> None:
    values = fitness.compute(population(FIRST), fitness.draw(0, 1))
    assert values.fitness_N.shape == (6,) and np.isfinite(values.fitness_N).all()
    assert np.argsort(values.fitness_N).tolist() == np.argsort(FIRST).tolist()
    assert isinstance(values.fitness_of_mean, float)


def test_it_is_a_function_of_its_arguments_only(fitness: Any) -> None:
    batch, again = fitness.draw(0, 1), fitness.draw(0, 1)
    one, other = fitness.compute(population(FIRST), batch), fitness.compute(population(FIRST), again)
    assert one.fitness_N.tobytes() == other.fitness_N.tobytes()
    assert one.step_scale == other.step_scale and batch.cost == again.cost


def test_candidates_in_another_order_have_the_same_fitness(fitness: Any) -> None:
    batch = fitness.draw(0, 1)
    forwards = fitness.compute(population(FIRST), batch).fitness_N
    backwards = fitness.compute(population(FIRST[::-1]), batch).fitness_N
    np.testing.assert_allclose(backwards[::-1], forwards, rtol=1e-12)


def test_generations_draw_other_prompts(fitness: Any) -> None:
    config, seen = fitness._config, set()
    for generation in range(1, 9):
        fitness.draw(0, generation)
        from evolign.evolution.prompts import draw_batch

        seen.add(tuple(example.id for example in draw_batch(config, TASK, generation)))
    assert len(seen) > 4


def test_what_it_returns_are_numbers_that_can_be_sent_and_logged(fitness: Any) -> None:
    batch = fitness.draw(0, 1)
    values = fitness.compute(population(FIRST), batch)
    again = pickle.loads(pickle.dumps(values))
    assert again.fitness_N.tobytes() == values.fitness_N.tobytes() and again.metrics == values.metrics
    json.dumps(values.metrics)
    assert not [name for name, value in vars(values).items() if callable(value)], "nothing calls back"


def test_completions_are_counted_once(fitness: Any) -> None:
    batch = fitness.draw(0, 1)
    values = fitness.compute(population(FIRST), batch)
    total = batch.cost + values.cost
    by_candidates, by_mean = 3 * (6 + 1), 3 * 4
    assert total.completions == (by_mean if fitness.steps > 1 else by_candidates)
    assert total.tokens > 0 and total.timeouts == total.crashes == 0


def test_a_step_is_measured_or_refused_in_a_sentence(fitness: Any) -> None:
    batch, candidates = fitness.draw(0, 1), population(FIRST)
    values = fitness.compute(candidates, batch)
    direction = Direction(np.zeros(DIM), np.array([1.0, 0.0, 0.0]), divergence=0.005, scale=0.1)
    if fitness.steps > 1:
        # KL of a log ratio of +-x on equal halves: (cosh x - 1) = x^2 / 2 for small x
        assert fitness.measure(direction, candidates, values, batch) == pytest.approx(0.5, rel=0.01)
    else:
        with pytest.raises(ValueError, match=r"fitness\.name = 'reward' cannot measure"):
            fitness.measure(direction, candidates, values, batch)


def test_steps_per_batch_are_a_positive_number(fitness: Any) -> None:
    assert isinstance(fitness.steps, int) and fitness.steps >= 1
