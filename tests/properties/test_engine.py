"""What must not change a result does not: batching, order, company. What must, does: noise and candidates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import engine_calls
import numpy as np
import pytest
import torch

from evolign.engines.transformers.engine import TransformersEngine
from evolign.errors import ConfigError, EngineError
from evolign.policy.policy import Policy
from evolign.types import Example, Population, Rollouts, Sampling

N, P = 4, 5
TEXT = "12+34=? the sum is: (7*8)-x/2, no."
EXAMPLES = [Example(id=f"row {length}", prompt=TEXT[-length:]) for length in (2, 3, 9, 13, 20)]
SAMPLING = Sampling(max_new_tokens=12, temperature=0.8, samples_per_prompt=2, noise_seed=3)
GREEDY = Sampling(max_new_tokens=12, temperature=0.0)


def candidates(policy: Policy, count: int = N, seed: int = 0) -> Population:
    return Population(np.random.default_rng(seed).normal(size=(count, policy.space.dim)))


def generate(
    policy: Policy,
    population: Population,
    examples_NP: list[list[Example]] | None = None,
    sampling: Sampling = SAMPLING,
    **options: Any,
) -> Rollouts:
    with TransformersEngine(policy, **options) as engine:
        return engine_calls.generate(
            engine, population, examples_NP or [EXAMPLES] * len(population), sampling
        )


def assert_equal(left: Rollouts, right: Rollouts, where: Any = ()) -> None:
    """`left[where]` is `right` in everything but the time it took."""
    assert (left.token_ids_NPS[where] == right.token_ids_NPS).all()
    assert (left.text_NPS[where] == right.text_NPS).all()
    assert (left.truncated_NPS[where] == right.truncated_NPS).all()


def assert_telling(rollouts: Rollouts) -> None:
    """Rows differ, and some end early: otherwise equality would prove nothing."""
    tokens = rollouts.token_ids_NPS
    assert len(set(tokens.flat)) >= 0.8 * tokens.size
    assert 0 < rollouts.truncated_NPS.sum() < tokens.size


@pytest.fixture
def llama(policy: Callable[..., Policy]) -> Policy:
    return policy("llama", "all-linear")


@contextmanager
def before_each_pass(policy: Policy, call: Callable[[int], None]) -> Iterator[None]:
    """Tell `call` the number of rows of every forward pass."""

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        call(len(kwargs["input_ids"]))

    handle = policy.base.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_the_size_of_the_micro_batch_changes_nothing(
    architecture: str, policy: Callable[..., Policy]
) -> None:
    chosen = policy(architecture, "all-linear")
    population = candidates(chosen)
    whole = generate(chosen, population)
    assert_telling(whole)
    for size in (1, 3, 7):
        assert_equal(generate(chosen, population, micro_batch_size=size), whole)
    few = generate(chosen, population, memory_gb=1e-9)  # room for no row at all: one at a time
    assert_equal(few, whole)


def test_the_order_and_the_company_of_candidates_and_prompts_change_nothing(
    architecture: str, policy: Callable[..., Policy]
) -> None:
    chosen = policy(architecture, "attention")
    population = candidates(chosen)
    whole = generate(chosen, population)
    assert_telling(whole)

    n, p = np.array([2, 0, 3, 1]), np.array([4, 2, 0, 1, 3])
    shuffled = generate(chosen, Population(population.theta_NK[n]), [[EXAMPLES[i] for i in p]] * N)
    assert_equal(whole, shuffled, np.ix_(n, p))

    parts = [generate(chosen, Population(population.theta_NK[part])) for part in (slice(0, 1), slice(1, N))]
    assert_equal(whole, parts[0], slice(0, 1))
    assert_equal(whole, parts[1], slice(1, N))

    twice = generate(chosen, Population(population.theta_NK[[1, 1, 0, 1]]))
    assert_equal(whole, twice, np.array([1, 1, 0, 1]))


def test_candidates_with_prompts_of_their_own_generate_what_they_do_on_shared_ones(llama: Policy) -> None:
    population = candidates(llama)
    whole = generate(llama, population)
    own = [[EXAMPLES[(n + p) % P] for p in range(2)] for n in range(N)]
    rollouts = generate(llama, population, own, micro_batch_size=3)
    for n in range(N):
        expected = whole.token_ids_NPS[n, [n % P, (n + 1) % P]]
        assert (rollouts.token_ids_NPS[n] == expected).all()


def test_an_engine_gives_the_same_answer_again_and_leaves_the_population_as_it_was(llama: Policy) -> None:
    population = candidates(llama)
    before = population.theta_NK.copy()
    with TransformersEngine(llama) as engine:
        first = engine_calls.generate(engine, population, [EXAMPLES] * N, SAMPLING)
        engine_calls.generate(engine, candidates(llama, 2, seed=9), [EXAMPLES] * 2, GREEDY)
        torch.manual_seed(99)  # no global generator plays a part
        assert_equal(engine_calls.generate(engine, population, [EXAMPLES] * N, SAMPLING), first)
    assert np.array_equal(population.theta_NK, before)


def test_samples_differ_between_numbers_and_seeds_but_not_between_equal_candidates(llama: Policy) -> None:
    population = Population(np.repeat(candidates(llama, 1).theta_NK, 2, axis=0))
    # at a temperature this high the noise alone decides, so equal noise would show
    hot = Sampling(max_new_tokens=12, temperature=50.0, samples_per_prompt=3, noise_seed=1)
    rollouts = generate(llama, population, sampling=hot)
    tokens = rollouts.token_ids_NPS
    assert (tokens[0] == tokens[1]).all()
    assert len(set(tokens[0].flat)) == tokens[0].size
    again = generate(llama, population, sampling=Sampling(12, 50.0, 3, noise_seed=2)).token_ids_NPS
    assert (again != tokens).all()
    more = generate(llama, population, sampling=Sampling(12, 50.0, 5, noise_seed=1)).token_ids_NPS
    assert (more[:, :, :3] == tokens).all()


def test_different_candidates_meet_the_same_noise(llama: Policy) -> None:
    """Common random numbers: where temperature drowns the logits, candidates agree on nearly all tokens."""
    drowned = Sampling(max_new_tokens=12, temperature=1e6)
    tokens = generate(llama, candidates(llama), sampling=drowned).token_ids_NPS
    assert all((tokens[n] == tokens[0]).all() for n in range(N))
    assert len(set(tokens[0].flat)) == P


def test_the_noise_of_a_prompt_follows_its_id(llama: Policy) -> None:
    renamed = [Example(id=f"other {example.id}", prompt=example.prompt) for example in EXAMPLES]
    population = candidates(llama, 1)
    first, second = generate(llama, population), generate(llama, population, [renamed])
    assert (first.token_ids_NPS != second.token_ids_NPS).sum() >= 8  # of 10; short ones may agree by chance
    assert_equal(
        generate(llama, population, sampling=GREEDY), generate(llama, population, [renamed], sampling=GREEDY)
    )


def test_closing_gives_the_model_back_as_it_was(llama: Policy) -> None:
    model = llama.base.model
    ids = torch.tensor([llama.base.encoder.encode(TEXT)])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        before = model(ids).logits
        with TransformersEngine(llama) as engine:
            engine_calls.generate(engine, candidates(llama, 1), [EXAMPLES], GREEDY)
            assert any("forward" in vars(module) for module in model.modules())
        assert torch.equal(model(ids).logits, before)
        with pytest.raises(KeyboardInterrupt), TransformersEngine(llama):
            raise KeyboardInterrupt
        assert torch.equal(model(ids).logits, before)
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_prompt_that_does_not_fit_the_context_is_named_with_its_numbers(
    architecture: str, policy: Callable[..., Policy]
) -> None:
    chosen = policy(architecture)
    examples = [EXAMPLES[0], Example(id="the long one", prompt="7" * 120)]
    with pytest.raises(ConfigError, match=r"'the long one' \(.*\) has 120 tokens .* = 9, .* context of 128"):
        generate(chosen, candidates(chosen, 1), [examples], Sampling(9))
    fits = generate(chosen, candidates(chosen, 1), [examples], Sampling(8))
    assert max(map(len, fits.token_ids_NPS.flat)) <= 8


def test_an_empty_prompt_is_named(llama: Policy) -> None:
    with pytest.raises(ConfigError, match=r"'blank' \(.*\) has no tokens"):
        generate(llama, candidates(llama, 1), [[Example(id="blank", prompt="")]])


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(llama: Policy) -> None:
    population = candidates(llama)
    whole = generate(llama, population)
    sizes: list[int] = []

    def no_more_than_five(rows: int) -> None:
        sizes.append(rows)
        if rows > 5 and len(sizes) % 3 == 0:  # in the midst of generating, not at its first pass
            raise torch.OutOfMemoryError("simulated")

    with before_each_pass(llama, no_more_than_five):
        survived = generate(llama, population)
    assert_equal(survived, whole)
    assert sizes[:2] == [N * P, whole.cost.completions], "a prompt is read once for its two samples"
    assert max(sizes[-5:]) <= 5


def test_no_memory_for_a_single_row_is_an_error_with_a_way_out(llama: Policy) -> None:
    def never(rows: int) -> None:
        raise torch.OutOfMemoryError("simulated")

    with (
        before_each_pass(llama, never),
        pytest.raises(EngineError, match=r"single completion; lower sampling\.max_new_tokens"),
    ):
        generate(llama, candidates(llama))


def test_rows_that_have_ended_are_dropped_from_the_forward_passes(
    architecture: str, policy: Callable[..., Policy]
) -> None:
    chosen = policy(architecture)
    sizes: list[int] = []
    with before_each_pass(chosen, sizes.append):
        rollouts = generate(chosen, candidates(chosen, 8), sampling=Sampling(24, 1.0))
    lengths = np.array([len(ids) for ids in rollouts.token_ids_NPS.flat])
    going = [(lengths > step).sum() for step in range(lengths.max())]
    assert len(sizes) == len(going)  # and not one pass more than the longest completion needs
    assert all(0.75 * rows <= alive <= rows for rows, alive in zip(sizes, going, strict=True))
    assert sizes[0] == lengths.size and sizes[-1] < 0.75 * sizes[0]


def test_a_prompt_is_read_once_for_all_its_samples(architecture: str, policy: Callable[..., Policy]) -> None:
    chosen = policy(architecture)
    sizes: list[int] = []
    with before_each_pass(chosen, sizes.append):
        shared = generate(chosen, candidates(chosen), sampling=replace(SAMPLING, samples_per_prompt=6))
    assert sizes[:2] == [N * P, 6 * N * P]
    few = generate(chosen, candidates(chosen))
    assert (shared.token_ids_NPS[:, :, :2] == few.token_ids_NPS).all()


def test_a_row_is_truncated_exactly_when_it_did_not_end_with_an_end_of_sequence_token(llama: Policy) -> None:
    rollouts = generate(llama, candidates(llama))
    ends = llama.base.eos_token_ids
    for ids, truncated in zip(rollouts.token_ids_NPS.flat, rollouts.truncated_NPS.flat, strict=True):
        assert truncated == (ids[-1] not in ends)
        assert not set(ids[:-1]) & set(ends)
        assert len(ids) == SAMPLING.max_new_tokens or not truncated
    assert rollouts.cost.tokens == sum(map(len, rollouts.token_ids_NPS.flat))
