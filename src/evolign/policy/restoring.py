"""Undoing what training libraries change in a model, the environment and the terminal."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from evolign.errors import ConfigError


@contextlib.contextmanager
def given_back(model: PreTrainedModel) -> Iterator[None]:
    """Undo what trainers leave on a model: hooks, checkpointing, `use_cache = False`, a patched forward."""
    modules = [
        (module, set(vars(module)), _flags(module), dict(module._forward_hooks)) for module in model.modules()
    ]
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
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
        for parameter, learns in learning:
            parameter.requires_grad_(learns)


def _flags(module: nn.Module) -> dict[str, Any]:
    """The settings of a module that training may change, such as the probability of a dropout."""
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | float)}


def on_one_gpu(arguments: Any, device: torch.device) -> Any:
    """The same TrainingArguments for one GPU. By default the Trainer uses all GPUs.

    Raises ConfigError for another GPU than the first, to which the Trainer would move the model.
    """
    if device.type == "cuda" and device.index:
        raise ConfigError(
            f"model.device = '{device}': training takes the first GPU that it sees; use cuda:0, and "
            f"CUDA_VISIBLE_DEVICES={device.index} in the environment"
        )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the trainers on the terminal and the network, and restore the environment."""
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
