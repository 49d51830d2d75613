"""Workers die, hang or answer wrongly: the answer stays the same, to the last bit, and the pool says so."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import evolution
from ray_pool import EXAMPLES

from evolign.config import ModelConfig, TransformersConfig
from evolign.engines import build_engine
from evolign.errors import ConfigError, EngineError, RewardError
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.rewards.scoring import Scorer
from evolign.types import Jump, Population, Rollouts, Sampling, Step

UNREACHABLE = """
from evolign.config import RayConfig
from evolign.engines.ray.cluster import connected
try:
    with connected(RayConfig(address="127.0.0.1:9")):
        pass
except Exception as error:
    print(error)
"""
NAMES = [example.id for example in EXAMPLES]
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0, samples_per_prompt=2, noise_seed=5)
COUNT = 8


def candidates(dim: int, version: int = 0, subspace: int | None = None) -> Population:
    theta_NK = 0.3 * np.random.default_rng(0).standard_normal((COUNT, dim))
    return Population(theta_NK, subspace, with_mean=True, version=version)


def everything(engine: Any, population: Population) -> tuple[Rollouts, np.ndarray]:
    """What the candidates write, and how likely all of them find what the first has written."""
    rollouts = engine.generate(population, [NAMES] * len(population), SAMPLED)
    tokens = [rollouts.token_ids_NPS[0, p, 0] for p in range(len(NAMES))]
    reader_M, read_M = np.indices((len(population), len(NAMES))).reshape(2, -1)
    logprob_MT = engine.logprobs(
        population, reader_M.tolist(), [NAMES[p] for p in read_M], [tokens[p] for p in read_M]
    )
    return rollouts, logprob_MT


def assert_same(one: tuple[Rollouts, np.ndarray], other: tuple[Rollouts, np.ndarray]) -> None:
    assert (one[0].text_NPS == other[0].text_NPS).all()
    assert (one[0].token_ids_NPS == other[0].token_ids_NPS).all()
    assert (one[0].truncated_NPS == other[0].truncated_NPS).all()
    np.testing.assert_array_equal(one[1], other[1])


@pytest.fixture(params=["singular values", "lora"])
def searched(
    request: pytest.FixtureRequest, policy: Callable[..., Policy], tmp_path_factory: pytest.TempPathFactory
) -> Policy:
    """A policy with either space."""
    if request.param == "singular values":
        return policy("llama")
    tree = {"adapter": {"warm_start": None, "rank": 4}, "space": {"name": "lora"}, "seed": 1}
    tree |= {"strategy": {"name": "openai_es"}}
    config = evolution(tree)
    return load_policy(config, policy("llama").base, [], tmp_path_factory.mktemp("lora") / "start")


def test_any_number_of_workers_answers_as_one_process_does_and_follows_its_moves(
    pool: Callable[..., Any], searched: Policy
) -> None:
    space = searched.space
    subspace = None if space.subspace_dim is None else 11
    dim = space.subspace_dim or space.dim
    step_K = 0.1 * np.random.default_rng(5).standard_normal(dim)
    moves = [Step(step_K, subspace, length=0.5, momentum=0.9, debias=0.1) for _ in range(3)]

    def course(engine: Any) -> list[tuple[Rollouts, np.ndarray]]:
        found = [everything(engine, candidates(dim, 0, subspace))]
        for version, move in enumerate(moves, start=1):
            engine.move(move)
            found.append(everything(engine, candidates(dim, version, subspace)))
        return found

    with build_engine(TransformersConfig(), searched, EXAMPLES) as engine:
        everything(engine, candidates(dim, 0, subspace))  # layers that read the same tensor have been noticed
        wanted = course(engine)
    for workers in (1, 3):
        with pool(llama=searched, workers=workers) as engine:
            for one, other in zip(course(engine), wanted, strict=True):
                assert_same(one, other)
            report = engine.report()
            assert report["bytes_numbers"] <= workers * 8 * (16 * (COUNT + 1) * dim + 4096)
            assert report["pieces"] > 8 and 0 < report["busy"] <= 1


def test_workers_that_are_killed_are_replaced_and_nothing_is_lost_or_counted_twice(
    pool: Callable[..., Any], policy: Callable[..., Policy]
) -> None:
    dim = policy("llama").space.dim
    with pool(workers=1) as engine:
        wanted = everything(engine, candidates(dim))
    said: list[str] = []
    with pool(said, workers=3) as engine:
        engine.move(Jump(np.zeros(dim)))  # the replaced worker catches up
        stop = threading.Event()

        def kill_now_and_then() -> None:
            while not stop.wait(1.0):
                if len(engine.workers) > 1:
                    os.kill(engine.workers[0].pid, signal.SIGKILL)

        while len(engine.workers) < 3:
            everything(engine, candidates(dim, 1))
        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            deadline = time.monotonic() + 200
            while sum("is lost" in text for text in said) < 4 and time.monotonic() < deadline:
                assert_same(everything(engine, candidates(dim, 1)), wanted)
        finally:
            stop.set()
            killer.join()
    assert sum("is lost" in text for text in said) >= 4, said
    assert any("is ready: 3 of 3" in text for text in said)


def test_a_worker_that_hangs_is_replaced_after_its_deadline(
    pool: Callable[..., Any], policy: Callable[..., Policy]
) -> None:
    dim = policy("llama").space.dim
    said: list[str] = []
    with pool(said, workers=2, piece_seconds=2.0) as engine:
        wanted = everything(engine, candidates(dim))
        os.kill(engine.workers[0].pid, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while not any("is lost" in text for text in said) and time.monotonic() < deadline:
            assert_same(everything(engine, candidates(dim)), wanted)
        assert any("is lost (it did not answer within 2 seconds)" in text for text in said)
        report = engine.report()
        assert report["pieces_retried"] + report["pieces_copied"] >= 1


def test_a_late_piece_is_asked_of_another_worker_and_its_late_answer_does_no_harm(
    pool: Callable[..., Any], policy: Callable[..., Policy]
) -> None:
    dim = policy("llama").space.dim
    said: list[str] = []
    with pool(said, workers=2, piece_seconds=500.0) as engine:
        while len(engine.workers) < 2:
            wanted = everything(engine, candidates(dim))
        engine.report()
        slow = engine.workers[0].pid
        os.kill(slow, signal.SIGSTOP)
        try:
            assert_same(everything(engine, candidates(dim)), wanted)
        finally:
            os.kill(slow, signal.SIGCONT)
        report = engine.report()
        assert report["pieces_copied"] >= 1 and report["pieces_retried"] == 0
        for _ in range(3):
            assert_same(everything(engine, candidates(dim)), wanted)
        assert not any("is lost" in text for text in said)


def test_a_worker_with_other_weights_is_refused_by_name(
    pool: Callable[..., Any], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    base = load_base_model(ModelConfig(name=str(folder), device="cpu"))
    config = evolution({"adapter": {"warm_start": None, "rank": 4}, "seed": 1})
    here = load_policy(config, base, [], tmp_path / "start")
    shutil.copy(tiny("qwen2") / "config.json", tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        pytest.raises(EngineError, match=r"was refused: other weights of the base model.*install the same"),
        pool(llama=here),
    ):
        pass


def test_a_model_that_a_worker_does_not_have_ends_the_run_with_the_reason(
    pool: Callable[..., Any], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    base = load_base_model(ModelConfig(name=str(folder), device="cpu"))
    config = evolution({"adapter": {"warm_start": None, "rank": 4}, "seed": 1})
    here = load_policy(config, base, [], tmp_path / "start")
    shutil.rmtree(folder)
    with (
        pytest.raises(EngineError, match=r"3 workers could not start.*is not a folder.*cluster has 1 nodes"),
        pool(llama=here),
    ):
        pass


def test_a_live_model_is_refused(pool: Callable[..., Any], policy: Callable[..., Policy]) -> None:
    from dataclasses import replace

    llama = policy("llama")
    live = replace(llama, base=replace(llama.base, loaded_from=None))
    with pytest.raises(ConfigError, match="give its name or folder in place of an object"), pool(llama=live):
        pass


def test_without_room_for_a_worker_the_message_says_what_there_is(pool: Callable[..., Any]) -> None:
    with (
        pytest.raises(
            EngineError, match=r"start_seconds = 2.*asks for 9 CPU; the cluster has 1 nodes with 4 of 4 CPU"
        ),
        pool(cpus_per_worker=9, start_seconds=2.0),
    ):
        pass


def test_an_address_that_nobody_listens_at_is_an_error_within_seconds() -> None:
    command = [sys.executable, "-c", UNREACHABLE]
    started = time.monotonic()
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "engine.address = '127.0.0.1:9': no Ray cluster answers there" in answer and "ray start" in answer
    assert time.monotonic() - started < 100, "of which most are for imports on a busy machine"


def test_an_error_of_the_user_is_raised_here_and_the_workers_stay(
    pool: Callable[..., Any], policy: Callable[..., Policy]
) -> None:
    dim = policy("llama").space.dim
    population = candidates(dim)
    with pool(workers=2) as engine:
        before = engine.workers
        engine.scorer(
            Scorer(lambda completions, **columns: ["good"] * len(completions), workers=1, timeout_seconds=10)
        )
        with pytest.raises(RewardError):
            engine.generate(population, [NAMES] * len(population), SAMPLED)
        engine.scorer(
            Scorer(lambda completions, **columns: [1.0] * len(completions), workers=1, timeout_seconds=10)
        )
        engine.generate(population, [NAMES] * len(population), SAMPLED)
        assert set(before) <= set(engine.workers)


def test_workers_score_what_they_write_as_one_process_does(
    pool: Callable[..., Any], policy: Callable[..., Policy]
) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        if "4" in completions[0]:
            os._exit(3)
        return [len(text) / 7 if text else None for text in completions]

    population = candidates(policy("llama").space.dim)
    examples = [example for _ in range(len(population)) for example in EXAMPLES for _ in range(2)]
    with Scorer(reward, workers=1, timeout_seconds=10, chunk_size=1, failure_score=-1.0) as local:
        with pool(workers=2) as engine:
            remote = engine.scorer(local)
            texts = list(engine.generate(population, [NAMES] * len(population), SAMPLED).text_NPS.flat)
            found = remote.score(examples, texts)
        wanted = local.score(examples, texts)
    assert wanted.cost.crashes > 0
    np.testing.assert_array_equal(found.values, wanted.values)
    assert found.cost == wanted.cost and list(found.failures) == list(wanted.failures)
