"""Fixtures of the whole suite: one thread, no network, tiny models on disk, and a guard against leftovers."""

import os

os.environ.update(  # before torch and transformers are imported; subprocesses inherit it
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
)

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_models import CONFIGS, randomised, save_tiny

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel
    from evolign.policy.policy import Policy

THREADS = 1
_shared: dict[str, "BaseModel"] = {}
"""The models that tests share: `guard` makes sure that each test gives them back as they were."""


@pytest.fixture(scope="session", params=CONFIGS)
def architecture(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return str(request.param)


@pytest.fixture(scope="session", params=["attention", "all-linear"])
def targets(request: pytest.FixtureRequest) -> str:
    """Both choices of `adapter.target_modules` in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny(architecture)` is a folder with a tiny random model and its tokenizer. Read only."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        return path if path.is_dir() else save_tiny(architecture, path)

    return folder


@pytest.fixture(scope="session")
def base(tiny: Callable[[str], Path]) -> Callable[[str], "BaseModel"]:
    """`base(architecture)` is that model loaded, shared by all tests."""

    def load(architecture: str) -> "BaseModel":
        from evolign.config import ModelConfig
        from evolign.policy.base_model import load_base_model

        if architecture not in _shared:
            _shared[architecture] = load_base_model(ModelConfig(name=str(tiny(architecture)), device="cpu"))
        return _shared[architecture]

    return load


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is trusted in a test is not trusted by its user, nor in another worker's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    """Fail a test that leaves another number of threads, or a hook or layer in a shared model."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(THREADS)
    yield
    if "torch" not in sys.modules:
        return
    assert sys.modules["torch"].get_num_threads() == THREADS, "the test left another number of torch threads"
    for name, shared in _shared.items():
        for path, module in shared.model.named_modules():
            where = f"{name}: {path or 'the model'}"
            assert not (module._forward_hooks or module._forward_pre_hooks), f"a hook was left in {where}"
            assert "lora" not in type(module).__module__, f"an adapter was left in {where}"
            assert not module.training, f"training mode was left on in {where}"
        assert not any(parameter.requires_grad for parameter in shared.model.parameters()), name


@pytest.fixture(scope="session")
def policy(
    base: Callable[[str], "BaseModel"], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., "Policy"]:
    """`policy(architecture, targets, start)` is a policy of rank 4, shared by all tests.

    start = "trained": both factors random, as after a warm start; "new": B = 0.
    """
    root = tmp_path_factory.mktemp("adapters")
    made: dict[tuple[str, str, str], Policy] = {}

    def make(architecture: str, targets: str = "attention", start: str = "trained") -> "Policy":
        from configs import evolution

        from evolign.policy.policy import load_policy

        wanted = (architecture, targets, start)
        if wanted in made:
            return made[wanted]
        adapter = {"warm_start": None, "target_modules": targets, "rank": 4}
        new = load_policy(
            evolution({"adapter": adapter, "seed": 1}),
            base(architecture),
            [],
            root / "-".join((architecture, targets, "new")),
        )
        if start == "new":
            made[wanted] = new
            return new
        path = root / "-".join(wanted)
        randomised(new.adapter).write(path)
        adapter["path"] = str(path)
        config = evolution({"adapter": adapter, "seed": 1})
        made[wanted] = load_policy(config, base(architecture), [], path.with_name(path.name + "-start"))
        return made[wanted]

    return make
