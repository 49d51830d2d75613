"""What training libraries are not to leave behind: traces on a model, chatter on the terminal."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def given_back(model: PreTrainedModel) -> Iterator[None]:
    """Undo what trainers leave on a model: hooks, checkpointing, `use_cache = False`, a patched forward."""
    modules = [
        (module, set(vars(module)), _flags(module), dict(module._forward_hooks)) for module in model.modules()
    ]
    settings = [vars(owner) for owner in (model.config, model.generation_config)]
    kept = copy.deepcopy(settings)
    try:
        yield
    finally:
        for module, names, flags, hooks in modules:
            for name in set(vars(module)) - names:
                delattr(module, name)
            vars(module).update(flags)
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)
        for now, before in zip(settings, kept, strict=True):
            now.clear()
            now.update(before)
        model.eval().requires_grad_(False)


def _flags(module: nn.Module) -> dict[str, Any]:
    """What can be switched or turned in a module, such as the share of a dropout."""
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | float)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the trainers' chatter off the terminal and the network, and restore the environment."""
    import datasets
    import transformers

    before: dict[str, Any] = {"HF_HUB_DISABLE_TELEMETRY": os.environ.get("HF_HUB_DISABLE_TELEMETRY")}
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    bars = datasets.utils.logging.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)  # TRL uses names that transformers 6 drops
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
