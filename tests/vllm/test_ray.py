"""Two workers of Ray with a vLLM in each: whatever of them dies, the run goes on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import evolution
from ray_pool import descendants, processes
from wide_heads import save_wide

from evolign.commands.run import run
from evolign.config import ModelConfig, RayConfig, TransformersConfig, VllmConfig
from evolign.config.recipe import load
from evolign.engines import build_engine
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.runs.progress import Silent
from evolign.types import Example, Population, Rollouts, Sampling

pytest.importorskip("vllm")
pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("default")
ROOT = Path(__file__).parents[2]
CPU: dict[str, Any] = {"enforce_eager": True, "max_model_len": 128, "max_num_seqs": 64}
EXAMPLES = [Example(str(i), f"{11 + i} + {2 * i} = ?\n") for i in range(8)]
GREEDY = Sampling(max_new_tokens=8, temperature=0.0)
SHORT = [
    *("strategy.population=8", "strategy.sigma=0.5", "evolution.generations=2", "evaluation.every=2"),
    *("evolution.prompts_per_generation=16", "task.num_validation=16", "task.num_test=16"),
    *("sampling.max_new_tokens=12", "evaluation.decoding=[greedy]", "evaluation.select_by=greedy"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("model") / "wide")


@pytest.fixture(scope="module")
def policy(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    config = evolution({"adapter": {"warm_start": None, "rank": 4}, "seed": 1})
    base = load_base_model(ModelConfig(name=str(model), device="cpu", dtype="float32"))
    return load_policy(config, base, [], tmp_path_factory.mktemp("policy") / "start")


@pytest.fixture(scope="module")
def progress() -> Silent:
    return Silent()


@pytest.fixture(scope="module")
def pool(policy: Policy, progress: Silent) -> Iterator[Any]:
    """Two workers, each of which has vLLM's engine in processes of its own, as vLLM does by default."""
    config = RayConfig(
        address="local",
        workers=2,
        piece_rows=8,
        start_seconds=500,
        worker=VllmConfig(max_loras=8, options=CPU),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        patch.setenv("RAY_worker_niceness", "0")
        with build_engine(config, policy, EXAMPLES, progress) as engine:
            yield engine


@pytest.fixture(scope="module")
def wanted(policy: Policy) -> Rollouts:
    """What transformers writes in this process."""
    with build_engine(TransformersConfig(), policy, EXAMPLES) as engine:
        return ask(engine, policy)


@pytest.fixture
def two(pool: Any, policy: Policy) -> Any:
    """The pool once it has both workers: it takes them up while it works."""
    deadline = time.monotonic() + 500
    while len(pool.workers) < 2:
        assert time.monotonic() < deadline
        ask(pool, policy)
    return pool


def ask(engine: Any, policy: Policy) -> Rollouts:
    """What the mean and seven candidates write, in eight pieces of the pool."""
    theta_NK = 0.3 * np.random.default_rng(0).standard_normal((7, policy.space.dim))
    rollouts: Rollouts = engine.generate(
        Population(theta_NK, with_mean=True), [[row.id for row in EXAMPLES]] * 8, GREEDY
    )
    return rollouts


def cores(pid: int) -> list[int]:
    """The processes of vLLM's engine that a worker has started."""
    inside = descendants(pid)
    return [number for number, command in processes() if number in inside and "EngineCore" in command]


def gone(pids: set[int]) -> bool:
    """Whether processes end within two minutes: vLLM looks for its parent now and then."""
    for _ in range(240):
        if not pids & {number for number, command in processes() if command}:
            return True
        time.sleep(0.5)
    return False


def test_a_run_on_two_workers_ends_with_an_adapter(model: Path, tmp_path: Path) -> None:
    recipe = [*SHORT, f"model.name={model}"]
    ours = ["engine.name=ray", "engine.workers=2", "engine.worker.name=vllm", "engine.piece_rows=32"]
    ours += ["engine.address=local", "engine.start_seconds=500"]
    ours.append(f"engine.worker.options={json.dumps(CPU)}")
    rows = {}
    for name, engine in {"alone": [], "ray": ours}.items():
        config = load(ROOT / "recipes/embedded/essa.yaml", [*recipe, *engine])
        result = run(config, tmp_path / name, progress=Silent())
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows[name] = [json.loads(line) for line in lines]
    assert (result.adapter / "adapter_model.safetensors").is_file()
    first, *generations = rows["ray"]
    assert first["eval/accuracy_greedy"] == rows["alone"][0]["eval/accuracy_greedy"] > 0
    assert [row["generation"] for row in generations] == [1, 2]
    for row, alone in zip(generations, rows["alone"][1:], strict=True):
        assert row["completions"] == alone["completions"] and row["pieces"] >= 4
        assert 0 <= row["fitness_min"] < row["fitness_max"] <= 1
        assert row["change_rate"] > 0.1
        assert row["fitness_mean"] == pytest.approx(alone["fitness_mean"], abs=0.25)


def test_greedy_tokens_are_those_of_transformers(two: Any, policy: Policy, wanted: Rollouts) -> None:
    found = ask(two, policy)
    assert (found.token_ids_NPS == wanted.token_ids_NPS).all()
    assert len(set(wanted.token_ids_NPS.flat)) > len(EXAMPLES)


@pytest.mark.parametrize("what", ["engine", "worker"])
def test_what_dies_is_replaced_and_its_piece_is_asked_of_another(
    two: Any, policy: Policy, wanted: Rollouts, progress: Silent, what: str
) -> None:
    pid = two.workers[0].pid
    inside = descendants(pid)
    for victim in cores(pid) if what == "engine" else [pid]:
        os.kill(victim, signal.SIGKILL)
    two.report()
    progress.said.clear()
    assert (ask(two, policy).token_ids_NPS == wanted.token_ids_NPS).all()
    figures = two.report()
    assert figures["pieces_retried"] + figures["pieces_copied"] >= 1, "the other has waited for the dead"
    deadline = time.monotonic() + 60  # what has died may be noticed after the other has done its work
    why = "vLLM's engine has ended" if what == "engine" else ""
    while not any("is lost" in text and why in text for text in progress.said):
        assert time.monotonic() < deadline, progress.said
        ask(two, policy)
    assert pid not in [worker.pid for worker in two.workers]
    assert gone({pid, *inside}), "processes outlive their worker"
