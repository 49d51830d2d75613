"""Which layers of a model an adapter is put on: `adapter.target_modules`, in the names that PEFT takes."""

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from evolign.config import AdapterConfig
from evolign.errors import ConfigError, unknown_name

LINEAR = (nn.Linear, Conv1D)
ATTENTION = ("attn", "attention")
NARROW = 4
"""How many times wider than high a layer is, or higher than wide, that is no projection but a gate."""


def lora_config(model: Any, config: AdapterConfig) -> LoraConfig:
    """PEFT's configuration of a new adapter on `model`."""
    alpha = 2 * config.rank if config.lora_alpha is None else config.lora_alpha
    targets = target_modules(model, config.target_modules, config.rank)
    transposed = any(
        isinstance(module, Conv1D) and any(ends_with(name, target) for target in targets)
        for name, module in model.named_modules()
    )
    return LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        target_modules=targets,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )


def target_modules(model: Any, choice: str | list[str], rank: int = 1) -> list[str]:
    """Shortest name endings that match the linear layers of `choice`, and no other module.

    Those that a choice by name finds are the language model's: not the output layer, no vision tower, no
    gate that is narrower than `rank`, and nothing that PEFT cannot adapt (see `left_out`).
    """
    linear = _linear(model)
    if not isinstance(choice, str):
        for target in choice:
            if not any(ends_with(name, target) for name in linear):
                raise unknown_name("module in adapter.target_modules:", target, _endings((), linear))
            if any(_is_refused(model, name) for name in linear if ends_with(name, target)):
                raise ConfigError(
                    f"adapter.target_modules = {choice}: PEFT does not adapt {target!r} of a "
                    f"{model.config.model_type} model as a linear layer; leave it out"
                )
        return choice
    wanted, _ = _chosen(model, choice, rank)
    if not wanted:
        raise ConfigError(
            f"adapter.target_modules = {choice!r}: this architecture names no such layer; list "
            "module names instead, for example adapter.target_modules=[q_proj,v_proj]"
        )
    return _endings((name for name, _ in model.named_modules()), wanted)


def left_out(model: Any, config: AdapterConfig) -> str:
    """What `adapter.target_modules` passes over and why, in a sentence; empty where there is nothing."""
    if not isinstance(config.target_modules, str) or config.path is not None:
        return ""
    _, passed_over = _chosen(model, config.target_modules, config.rank)
    reasons: dict[str, set[str]] = {}
    for name, reason in passed_over.items():
        reasons.setdefault(reason, set()).add(name.rpartition(".")[2])
    return "; ".join(f"left out: {', '.join(sorted(names))} ({reason})" for reason, names in reasons.items())


def check_trainable(model: Any, names: Iterable[str]) -> None:
    """Raise ConfigError for an adapter on the output layer, if it is trained: TRL reads its weight alone."""
    head = next(
        (name for name, module in model.named_modules() if module is model.get_output_embeddings()), ""
    )
    if head in {*names}:
        raise ConfigError(
            f"adapter.target_modules: an adapter on the output layer {head!r} can be evolved, not trained "
            "by gradients (TRL computes with its weight alone); leave it out, or evolve it without a warm "
            "start: adapter.warm_start=null"
        )


def ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _linear(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}


def _sides(module: Any) -> tuple[int, int]:
    """Inputs and outputs; a quantised weight has another shape."""
    return (
        tuple(module.weight.shape)
        if isinstance(module, Conv1D)
        else (module.in_features, module.out_features)
    )


def _chosen(model: Any, choice: str, rank: int) -> tuple[set[str], dict[str, str]]:
    """The layers that `choice` adapts, and those that it would but for a reason."""
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    language = {*(model.base_model if decoder is head else decoder).modules()} - {head}
    linear = {name: module for name, module in _linear(model).items() if module in language}
    if choice == "attention":
        linear = {
            name: module
            for name, module in linear.items()
            if any(word in part for part in name.split(".")[:-1] for word in ATTENTION)
        }
    passed_over = {}
    for name, module in linear.items():
        small, large = sorted(_sides(module))
        if small < rank and NARROW * small <= large:
            passed_over[name] = f"narrower than adapter.rank = {rank}"
        elif _is_refused(model, name):
            passed_over[name] = "PEFT does not adapt it as a linear layer"
    return set(linear) - set(passed_over), passed_over


def _is_refused(model: Any, name: str) -> bool:
    """Whether PEFT does not adapt this layer: a router that returns more than a product, or by its name.

    Of a mixture of experts, whose weights transformers keeps as bare parameters, PEFT takes the `gate_proj`
    of a dense layer for them too.
    """
    if not _is_product(model.get_submodule(name)):
        return True
    trial = LoraConfig(target_modules=[name])
    try:
        for check in _checks_of_peft():
            check(trial, model, name.rpartition(".")[2])
    except ValueError:
        return True
    return bool(trial.target_parameters)


def _is_product(module: Any) -> bool:
    """Whether a layer returns one tensor, as far as its class has a `forward` of its own in transformers."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.models.") or "forward" not in vars(kind):
        return True
    weight = module.weight
    try:
        with torch.inference_mode():
            return isinstance(module(weight.new_zeros(2, module.in_features)), torch.Tensor)
    except Exception:  # it wants more than an input
        return False


def _checks_of_peft() -> Iterable[Any]:
    """Functions of PEFT without a public name; where a version has none, it refuses nothing."""
    import peft.tuners.tuners_utils as tuners

    if mamba := getattr(tuners, "_check_lora_target_modules_mamba", None):
        yield mamba
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:
        return
    yield lambda config, model, _: convert_peft_config_for_transformers(config, model, None)


def _endings(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    wanted = set(wanted)
    others = [name for name in names if name not in wanted]
    endings = set()
    for name in wanted:
        parts = name.split(".")
        candidates = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        endings.add(next(e for e in candidates if not any(ends_with(o, e) for o in others)))
    return sorted(endings)
