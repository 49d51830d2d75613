"""A small Ray cluster for all tests of this folder, and engines on it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ray_pool import EXAMPLES

from evolign.engines import build_engine
from evolign.policy.policy import Policy
from evolign.runs.progress import Silent


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray on this machine, with room for four workers of one processor."""
    ray = pytest.importorskip("ray")
    from evolign.config import RayConfig
    from evolign.engines.ray.cluster import connected

    os.environ |= {"RAY_worker_niceness": "0"}  # else workers wait for all others on a busy machine
    with connected(RayConfig(address="local", workers=4)):
        yield ray


@pytest.fixture
def pool(cluster: Any, policy: Callable[..., Policy]) -> Callable[..., Any]:
    """`with pool(workers=2, said=[]) as engine`: an engine on the cluster that knows EXAMPLES."""
    from evolign.config import RayConfig

    @contextmanager
    def make(said: list[str] | None = None, llama: Policy | None = None, **settings: Any) -> Iterator[Any]:
        progress = Silent()
        if said is not None:
            progress.said = said
        config = RayConfig.model_validate({"workers": 1, "piece_rows": 8, **settings})
        with build_engine(config, llama or policy("llama"), EXAMPLES, progress) as engine:
            yield engine

    return make
