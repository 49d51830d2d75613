"""Only numbers travel: a process that has nothing but a spec follows the moves to the same bits.

`python tests/properties/test_boundary.py` is that process: it reads a spec, then populations and moves, as
pickles on standard input, and answers with hashes of what it has arrived at.
"""

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolign.config import EvolutionConfig
from evolign.config.recipe import parse
from evolign.policy.base_model import BaseModel
from evolign.policy.policy import Policy, PolicySpec, load_policy
from evolign.strategies import build_strategy
from evolign.strategies.mean import Mean
from evolign.types import Direction, Move, Population

STEPS, SIGMA = 20, 0.05
SEARCHES: dict[str, dict[str, Any]] = {
    "lora": {
        "space": {"name": "lora", "terms": 2},
        "strategy": {"name": "openai_es", "optimizer": "trust_region", "beta1": 0.0},
    },
    "lora, momentum": {
        "space": {"name": "lora", "terms": 2},
        "strategy": {"name": "openai_es", "optimizer": "trust_region", "beta1": 0.9},
    },
    "lora, adam": {
        "space": {"name": "lora", "terms": 2},
        "strategy": {"name": "openai_es", "optimizer": "adam"},
    },
    "singular values": {"strategy": {"name": "cma_es"}},
    "singular values, trust region": {"strategy": {"name": "openai_es", "optimizer": "trust_region"}},
}


def settings(name: str, model: Path) -> EvolutionConfig:
    tree: dict[str, Any] = {
        "model": {"name": str(model), "device": "cpu"},
        "adapter": {"rank": 4, "warm_start": None},
        "fitness": {"name": "likelihood"},
        "sampling": {"samples_per_prompt": 2},
        "seed": 3,
        **SEARCHES[name],
    }
    tree["strategy"] = {**tree["strategy"], "population": 8}
    config = parse(tree)
    assert isinstance(config, EvolutionConfig)
    return config


def digest(policy: Policy, population: Population, mean: Mean) -> str:
    """A hash of where the mean is and of what every candidate is, to the last bit."""
    found = hashlib.blake2b(mean.point.tobytes())
    for scale_NK in policy.space.scales(population, mean.point):  # type: ignore[attr-defined]
        found.update(scale_NK.numpy().tobytes())
    for adapter in policy.space.adapters(population, mean.point):
        for lora in adapter.modules.values():
            found.update(lora.A.numpy().tobytes() + lora.B.numpy().tobytes())
    return found.hexdigest()


def place(mean: Mean) -> str:
    """Where the mean is and what momentum it has, to the last bit."""
    state = mean.state_dict()
    return hashlib.blake2b(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest()


def search(config: EvolutionConfig, policy: Policy) -> Iterator[tuple[Population, Move | None, str, str]]:
    """Twenty steps with random fitness: what is sent at each of them, and where the driver itself is before
    and after the move."""
    space, rng = policy.space, np.random.default_rng(0)
    inside = space.subspace_dim is not None
    strategy = build_strategy(config.strategy, space.subspace_dim or space.dim, SIGMA, config.seed, inside)
    mean = Mean(space.dim)
    for _ in range(STEPS):
        population = Population(strategy.ask(), strategy.subspace, with_mean=True, version=mean.version)
        found = digest(policy, population, mean)
        fitness_N = rng.standard_normal(8)
        direction: Direction | None = strategy.direction(population.theta_NK, fitness_N)
        divergence = None if direction is None else float(rng.uniform(0.5, 2.0))
        move = strategy.tell(population.theta_NK, fitness_N, 1.0, divergence)
        if move is not None:
            mean.follow(move, space.lift)
        yield population, move, found, place(mean)


@pytest.fixture(params=SEARCHES)
def started(
    request: pytest.FixtureRequest,
    base: Callable[[str], BaseModel],
    tiny: Callable[[str], Path],
    tmp_path: Path,
) -> tuple[EvolutionConfig, Policy, PolicySpec]:
    config = settings(request.param, tiny("llama"))
    policy = load_policy(config, base("llama"), [], tmp_path / "start")
    return config, policy, PolicySpec(config.model, str(tmp_path / "start"), config.space, config.seed)


def test_another_process_that_has_only_a_spec_arrives_at_the_same_bits(
    started: tuple[EvolutionConfig, Policy, PolicySpec],
) -> None:
    config, policy, spec = started
    sent, expected = [pickle.dumps(spec)], []
    for population, move, before, after in search(config, policy):
        sent.append(pickle.dumps((population, move)))
        expected += [before, after]
    assert len(set(expected)) == 2 * STEPS, "every step is somewhere else"
    packed = b"".join(len(data).to_bytes(8, "big") + data for data in sent)
    command = [sys.executable, __file__]
    answer = subprocess.run(command, input=packed, capture_output=True, check=True).stdout.decode().split()
    assert answer == expected


def test_what_crosses_per_step_does_not_grow_with_the_policy(
    started: tuple[EvolutionConfig, Policy, PolicySpec],
) -> None:
    config, policy, spec = started
    assert len(pickle.dumps(spec)) < 4096
    for population, move, *_ in search(config, policy):
        candidates, coordinates = population.theta_NK.shape
        sent = len(pickle.dumps(population)) + len(pickle.dumps(move))
        bound = 16 * candidates * coordinates + 4096
        assert sent <= bound
        if policy.space.subspace_dim is not None:
            assert policy.space.dim > 10 * coordinates, "or the bound would say nothing"
            assert sent + 8 * policy.space.dim > bound, "one vector of the whole space would be too much"


def follow(stream: Any) -> None:
    """What a worker does: build the policy, answer where it is, follow the move."""
    packets = iter(lambda: stream.read(int.from_bytes(stream.read(8), "big")), b"")
    policy = pickle.loads(next(packets)).build()
    mean = Mean(policy.space.dim)
    for packet in packets:
        population, move = pickle.loads(packet)
        assert population.version == mean.version
        print(digest(policy, population, mean))
        if move is not None:
            mean.follow(move, policy.space.lift)
        print(place(mean))


if __name__ == "__main__":
    follow(sys.stdin.buffer)
