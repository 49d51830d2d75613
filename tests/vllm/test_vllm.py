"""vLLM writes what transformers writes: token by token where nothing is drawn. `make test-vllm` runs this."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import evolution
from tiny_models import save_tiny

from evolign.commands.run import resume, run
from evolign.config import ModelConfig, TransformersConfig, VllmConfig
from evolign.config.recipe import parse
from evolign.engines import build_engine
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.runs.progress import Silent
from evolign.types import Example, Jump, Population, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")
MODELS = Path(os.environ.get("EVOLIGN_MODELS", "/nowhere"))
CPU: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 64,
    "distributed_executor_backend": "uni",
}
EXAMPLES = [Example(str(i), f"{i} + {2 * i} =") for i in range(4)]
NAMES = [example.id for example in EXAMPLES]
CANDIDATES = 16


def tiny(folder: Path) -> Path:
    """A llama with random weights whose heads have a size that vLLM's CPU kernels know."""
    return save_tiny("llama", folder, hidden_size=128, intermediate_size=256, head_dim=32)


@pytest.fixture(
    scope="module",
    params=[
        "tiny",
        pytest.param(
            "SmolLM2-135M-Instruct",
            marks=pytest.mark.skipif(not MODELS.is_dir(), reason="EVOLIGN_MODELS is not set"),
        ),
    ],
)
def policies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """The same policy twice, since the engine reads with the first one's model."""
    root = tmp_path_factory.mktemp("policy")
    folder = tiny(root / "model") if request.param == "tiny" else MODELS / request.param
    config = evolution({"adapter": {"warm_start": None, "rank": 4}, "seed": 1})
    model = ModelConfig(name=str(folder), device="cpu", dtype="float32")
    return [load_policy(config, load_base_model(model), [], root / "start") for _ in range(2)]


@pytest.fixture(scope="module")
def reference(policies: list[Policy]) -> Iterator[Any]:
    with build_engine(TransformersConfig(), policies[1], EXAMPLES) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(policies: list[Policy]) -> Iterator[Any]:
    with build_engine(VllmConfig(max_loras=8, options=CPU), policies[0], EXAMPLES) as engine:
        yield engine


def test_greedy_tokens_are_those_of_transformers_for_16_candidates_over_generations(
    engine: Any, reference: Any, policies: list[Policy]
) -> None:
    dim = policies[0].space.dim
    rng = np.random.default_rng(0)
    moves = [Jump(0.2 * rng.standard_normal(dim)) for _ in range(2)]
    greedy = Sampling(max_new_tokens=12, temperature=0.0)

    def course(engine: Any) -> list[Any]:
        found = []
        for version in range(3):
            if version:
                engine.move(moves[version - 1])
            theta_NK = 0.5 * np.random.default_rng(version).standard_normal((CANDIDATES, dim))
            population = Population(theta_NK, with_mean=True, version=version)
            found.append(engine.generate(population, [NAMES] * len(population), greedy))
        return found

    written, wanted = course(engine), course(reference)
    for one, other in zip(written, wanted, strict=True):
        assert (one.token_ids_NPS == other.token_ids_NPS).all()
        assert (one.text_NPS == other.text_NPS).all()
        assert (one.truncated_NPS == other.truncated_NPS).all()
    assert len({ids for rollouts in wanted for ids in rollouts.token_ids_NPS.flat}) > CANDIDATES


def test_samples_of_a_prompt_differ_and_candidates_that_are_equal_write_the_same(
    engine: Any, policies: list[Policy]
) -> None:
    theta_NK = np.zeros((2, policies[0].space.dim))
    drawn = Sampling(max_new_tokens=12, samples_per_prompt=4, noise_seed=7)
    token_ids_NPS = engine.generate(Population(theta_NK), [NAMES] * 2, drawn).token_ids_NPS
    assert (token_ids_NPS[0] == token_ids_NPS[1]).mean() > 0.9
    assert len(set(token_ids_NPS[0, 0])) > 1


def test_what_is_read_is_what_transformers_reads(engine: Any, reference: Any, policies: list[Policy]) -> None:
    dim = policies[0].space.dim
    population = Population(0.3 * np.random.default_rng(3).standard_normal((2, dim)))
    asked: tuple[Any, ...] = (population, [0, 1], NAMES[:2], [(5, 6, 7), (8, 9)])
    np.testing.assert_allclose(engine.logprobs(*asked), reference.logprobs(*asked), rtol=1e-4)


@pytest.mark.parametrize("fitness", ["reward", "likelihood"])
def test_a_run_ends_and_an_interrupted_one_resumes(tmp_path: Path, fitness: str) -> None:
    class Stopped(Silent):
        def record(self, row: Any) -> None:
            if row["generation"] == 1:
                raise KeyboardInterrupt

    tree: dict[str, Any] = {
        "model": {"name": str(tiny(tmp_path / "model")), "device": "cpu", "dtype": "float32"},
        "adapter": {"warm_start": None, "rank": 4},
        "task": {"name": "arithmetic", "num_train": 20, "num_validation": 4, "num_test": 4},
        "sampling": {"max_new_tokens": 6, "samples_per_prompt": 2},
        "strategy": {"name": "openai_es", "population": 4, "sigma": 0.1},
        "fitness": {"name": fitness},
        "evolution": {"generations": 2, "prompts_per_generation": 4},
        "engine": {"name": "vllm", "max_loras": 4, "options": CPU},
        "evaluation": {"every": 1},
    }
    config = parse(tree)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", progress=Stopped())
    result = resume(tmp_path / "run", progress=Silent())
    assert result.summary["generations"] == 2
    assert (result.adapter / "adapter_model.safetensors").is_file()
