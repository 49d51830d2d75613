"""Every registered engine, and the public fake, keeps the protocol of `evolign.engines.base.Engine`."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from configs import evolution
from tiny_models import save_tiny

from evolign.config import EngineConfig, ModelConfig, RayConfig, TransformersConfig, VllmConfig
from evolign.engines import ENGINES, Engine, build_engine
from evolign.engines.fake import FakeEngine
from evolign.errors import EngineError
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.strategies.mean import Mean
from evolign.types import Example, Jump, Population, Rollouts, Sampling

EXAMPLES = [Example(str(i), f"{i}+{i}=") for i in range(3)]
NAMES = [example.id for example in EXAMPLES]
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0, samples_per_prompt=2, noise_seed=5)
ON_CPU = {"enforce_eager": True, "max_model_len": 128, "distributed_executor_backend": "uni"}
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(),
    "vllm": VllmConfig(max_loras=8, options=ON_CPU),
    "ray": RayConfig(workers=1, address="local"),
}
GREEDY = Sampling(max_new_tokens=6, temperature=0.0)


def by_digits(theta_D: np.ndarray, example: Example) -> str:
    return f"{example.prompt}{theta_D.sum():.3f}"


def quadratic(theta_D: np.ndarray, example: Example, token_ids: tuple[int, ...]) -> float:
    return -float((theta_D**2).sum()) - len(token_ids)


@pytest.fixture(scope="module")
def on_ray(policy: Callable[..., Policy]) -> Iterator[tuple[Engine, int]]:
    """One worker for all tests here, since it takes seconds to start, and a model that no other case uses."""
    pytest.importorskip("ray")
    mistral = policy("mistral")
    with build_engine(CONFIGS["ray"], mistral, EXAMPLES) as engine:
        yield engine, mistral.space.dim


@pytest.fixture(scope="module")
def on_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, int]]:
    """The same of vLLM, whose kernels do not know heads as small as those of the other tiny models."""
    pytest.importorskip("vllm")
    root = tmp_path_factory.mktemp("vllm")
    folder = save_tiny("llama", root / "model", hidden_size=128, head_dim=32)
    base = load_base_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    made = load_policy(evolution({"adapter": {"warm_start": None, "rank": 4}}), base, [], root / "start")
    with build_engine(CONFIGS["vllm"], made, EXAMPLES) as engine:
        yield engine, made.space.dim


@pytest.fixture(params=["fake", *ENGINES])
def made(request: pytest.FixtureRequest, policy: Callable[..., Policy]) -> Callable[..., Any]:
    """`with made() as (engine, D)`: an engine that knows the prompts of EXAMPLES."""

    @contextmanager
    def fake() -> Iterator[tuple[Engine, int]]:
        engine = FakeEngine(by_digits, quadratic, dim=3)
        engine.add_prompts(EXAMPLES)
        with engine:
            yield engine, 3

    @contextmanager
    def transformers() -> Iterator[tuple[Engine, int]]:
        llama = policy("llama")
        with build_engine(TransformersConfig(), llama, EXAMPLES) as engine:
            yield engine, llama.space.dim

    @contextmanager
    def ray() -> Iterator[tuple[Engine, int]]:
        yield as_new(request.getfixturevalue("on_ray"))

    @contextmanager
    def vllm() -> Iterator[tuple[Engine, int]]:
        yield as_new(request.getfixturevalue("on_vllm"))

    cases = (fake, transformers, vllm, ray)
    factories: dict[str, Callable[..., Any]] = {case.__name__: case for case in cases}
    assert factories.keys() == {"fake", *ENGINES}, "an engine without a case here"
    return factories[request.param]


def as_new(shared: tuple[Engine, int]) -> tuple[Engine, int]:
    """An engine that earlier tests have used, with its mean at the start."""
    engine, dim = shared
    engine.place(Mean.at(np.zeros(dim)).state_dict())
    return shared


def candidates(dim: int, count: int = 4) -> np.ndarray:
    return 0.5 * np.random.default_rng(0).standard_normal((count, dim))


def assert_same(one: Rollouts, other: Rollouts) -> None:
    assert (one.text_NPS == other.text_NPS).all()
    assert (one.token_ids_NPS == other.token_ids_NPS).all()
    assert (one.truncated_NPS == other.truncated_NPS).all()


def generate(engine: Engine, population: Population, sampling: Sampling = SAMPLED) -> Rollouts:
    return engine.generate(population, [NAMES] * len(population), sampling)


def test_every_candidate_answers_every_prompt_as_often_as_asked(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        rollouts = generate(engine, Population(candidates(dim), with_mean=True))
    assert (
        rollouts.text_NPS.shape == rollouts.token_ids_NPS.shape == rollouts.truncated_NPS.shape == (5, 3, 2)
    )
    assert all(isinstance(text, str) for text in rollouts.text_NPS.flat)
    assert all(isinstance(ids, tuple) and ids for ids in rollouts.token_ids_NPS.flat)
    assert rollouts.truncated_NPS.dtype == bool
    assert rollouts.cost.completions == 30
    assert rollouts.cost.tokens == sum(map(len, rollouts.token_ids_NPS.flat))


def test_the_same_numbers_give_the_same_completions_in_any_order(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        theta_ND = candidates(dim)
        whole = generate(engine, Population(theta_ND))
        assert_same(whole, generate(engine, Population(theta_ND)))
        if not engine.abilities.exact:
            return
        backwards = generate(engine, Population(theta_ND[::-1].copy()))
        assert (backwards.text_NPS[::-1] == whole.text_NPS).all()
        turned = engine.generate(Population(theta_ND), [NAMES[::-1]] * 4, SAMPLED)
        assert (turned.text_NPS[:, ::-1] == whole.text_NPS).all()
        alone = engine.generate(Population(theta_ND[2:3]), [NAMES[1:2]], SAMPLED)
        assert (alone.text_NPS == whole.text_NPS[2:3, 1:2]).all()


def test_the_mean_is_the_point_that_the_moves_have_led_to(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        start, *points = np.zeros((1, dim)), *candidates(dim, 3)
        assert_same(generate(engine, Population.of_mean(0)), generate(engine, Population(start)))
        for version, point_D in enumerate(points, start=1):
            engine.move(Jump(point_D))
            assert_same(
                generate(engine, Population.of_mean(version)), generate(engine, Population(point_D[None]))
            )


def test_a_mean_that_is_placed_is_as_good_as_one_that_has_moved_there(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        point_D = candidates(dim)[0]
        engine.place(Mean.at(point_D, version=7).state_dict())
        beside = Population(candidates(dim), with_mean=True, version=7)
        assert (
            generate(engine, beside).text_NPS[-1:] == generate(engine, Population(point_D[None])).text_NPS
        ).all()
        engine.move(Jump(np.zeros(dim)))
        zero = generate(engine, Population(np.zeros((1, dim))))
        assert_same(generate(engine, Population.of_mean(8)), zero)


@pytest.mark.parametrize("version", [0, 2])
def test_a_population_around_another_mean_is_refused(made: Callable[..., Any], version: int) -> None:
    with made() as (engine, dim):
        engine.move(Jump(candidates(dim)[0]))
        stale = Population(candidates(dim), with_mean=True, version=version)
        with pytest.raises(EngineError, match=f"version {version} of the mean, .* has followed 1 moves"):
            generate(engine, stale)
        if engine.abilities.reads:
            with pytest.raises(EngineError, match="place its mean"):
                engine.logprobs(stale, [0], NAMES[:1], [(3, 4)])
        generate(engine, Population(candidates(dim), version=version))  # points of the whole space


def test_a_prompt_that_was_not_added_is_refused_by_name(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        with pytest.raises(EngineError, match=r"prompt 'nobody' is not known .* add_prompts"):
            engine.generate(Population(candidates(dim, 1)), [["nobody"]], GREEDY)
        engine.add_prompts([Example("nobody", "1+2=")])
        assert engine.generate(Population(candidates(dim, 1)), [["nobody"]], GREEDY).cost.completions == 1


def test_a_prompt_of_the_same_name_takes_the_place_of_the_earlier_one(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        population = Population(candidates(dim, 1))
        engine.add_prompts([replace(EXAMPLES[0], prompt="7*8=")])
        renamed = engine.generate(population, [NAMES[:1]], GREEDY)
        engine.add_prompts([Example("other", "7*8=")])
        assert (renamed.text_NPS == engine.generate(population, [["other"]], GREEDY).text_NPS).all()
        engine.add_prompts(EXAMPLES)


def test_readings_have_a_number_per_token_and_zeros_beyond_the_end(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        assert engine.abilities.reads
        population = Population(candidates(dim), with_mean=True)
        token_ids = [(5,), (5, 6, 7), (8, 9)]
        logprob_MT = engine.logprobs(population, [0, 4, 1], NAMES, token_ids)
        assert logprob_MT.shape == (3, 3) and logprob_MT.dtype == np.float64
        assert (
            (logprob_MT <= 0).all() and logprob_MT[0, 1:].tolist() == [0.0, 0.0] and logprob_MT[2, 2] == 0.0
        )
        assert (logprob_MT[:, 0] < 0).all()
        again_MT = engine.logprobs(population, [1, 0], [NAMES[2], NAMES[0]], [token_ids[2], token_ids[0]])
        np.testing.assert_allclose(again_MT[:, 0], logprob_MT[[2, 0], 0], rtol=1e-4)


def test_an_engine_that_cannot_read_says_so() -> None:
    engine = FakeEngine(by_digits, dim=3)
    engine.add_prompts(EXAMPLES)
    assert not engine.abilities.reads
    with pytest.raises(EngineError, match="cannot read completions"):
        engine.logprobs(Population(candidates(3)), [0], NAMES[:1], [(1,)])


def test_all_that_crosses_the_boundary_survives_a_pickle(made: Callable[..., Any]) -> None:
    with made() as (engine, dim):
        population = Population(candidates(dim), with_mean=True)
        rollouts = generate(engine, pickle.loads(pickle.dumps(population)))
        assert_same(pickle.loads(pickle.dumps(rollouts)), generate(engine, population))
        engine.move(pickle.loads(pickle.dumps(Jump(candidates(dim)[0]))))
        assert generate(engine, Population.of_mean(1)).cost.completions == 6


@pytest.mark.parametrize("name", ENGINES)
def test_a_recipe_knows_what_its_engine_can_do(name: str, policy: Callable[..., Policy]) -> None:
    if name in ("ray", "vllm"):
        pytest.importorskip(name)
    engine = build_engine(CONFIGS[name], policy("llama"))
    assert CONFIGS[name].abilities == engine.abilities
    engine.__exit__(None, None, None)
