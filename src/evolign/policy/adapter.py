"""LoRA adapters as plain tensors: made, read and written in PEFT's format, whatever the model.

The base model is only borrowed: PEFT layers are put in to learn names and shapes, and taken out.
"""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evolign import disk
from evolign.config import AdapterConfig
from evolign.errors import ConfigError, unknown_name

LINEAR = (nn.Linear, Conv1D)
ATTENTION = ("attn", "attention")
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
UNSUPPORTED = {
    "use_dora": "DoRA",
    "bias": "trained biases",
    "lora_bias": "LoRA bias",
    "modules_to_save": "fully trained modules",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
}
BROKEN = (
    RuntimeError, ValueError, TypeError, OSError, KeyError, EOFError, AttributeError, IndexError, MemoryError,
    SafetensorError, UnpicklingError, UserWarning,
)  # fmt: skip
"""What PEFT, safetensors and torch raise on a folder that is damaged or made for something else."""
KEEP_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base weights alone; others change them, on loading as well."""


@dataclass(frozen=True)
class Lora:
    """The update `scaling * B @ A` of one linear layer."""

    A: Tensor
    """float32, shape (R, in)."""
    B: Tensor
    """float32, shape (out, R)."""
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: one `Lora` per adapted module of the base model, by the module's name."""

    modules: dict[str, Lora]
    config: dict[str, Any]
    """PEFT's adapter_config.json."""

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names that PEFT gives them in a file."""
        tensors = {}
        for name, lora in self.modules.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = lora.A.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = lora.B.contiguous()
        return tensors

    def write(self, folder: Path) -> None:
        """Write a folder that `PeftModel.from_pretrained` loads: plain LoRA, nothing of ours in it."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {**self.config, "inference_mode": True}
        if isinstance(config["target_modules"], list):
            config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set
        text = json.dumps(config, indent=2, sort_keys=True)
        disk.write(folder / "adapter_config.json", text + "\n")


def lora_config(model: Any, config: AdapterConfig) -> LoraConfig:
    """PEFT's configuration of a new adapter on `model`."""
    alpha = 2 * config.rank if config.lora_alpha is None else config.lora_alpha
    targets = target_modules(model, config.target_modules)
    transposed = any(
        isinstance(module, Conv1D) and any(_ends_with(name, target) for target in targets)
        for name, module in model.named_modules()
    )
    return LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        target_modules=targets,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )


def target_modules(model: Any, choice: str | list[str]) -> list[str]:
    """Shortest name endings that match the linear layers of `choice`, and no others.

    Those that a choice by name finds are the language model's: not the output layer, no vision tower.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    if not isinstance(choice, str):
        for target in choice:
            if not any(_ends_with(name, target) for name in linear):
                raise unknown_name("module in adapter.target_modules:", target, _endings(set(linear), set()))
        return choice
    language = {*model.get_decoder().modules()} - {model.get_output_embeddings()}
    wanted = {name for name in linear if model.get_submodule(name) in language}
    if choice == "attention":
        wanted = {
            name
            for name in wanted
            if any(word in part for part in name.split(".")[:-1] for word in ATTENTION)
        }
    if not wanted:
        raise ConfigError(
            f"adapter.target_modules = {choice!r}: this architecture names no such layer; list "
            "module names instead, for example adapter.target_modules=[q_proj,v_proj]"
        )
    return _endings(wanted, set(linear) - wanted)


def _endings(wanted: set[str], others: set[str]) -> list[str]:
    endings = set()
    for name in wanted:
        parts = name.split(".")
        candidates = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        endings.add(next(e for e in candidates if not any(_ends_with(o, e) for o in others)))
    return sorted(endings)


def new_adapter(model: Any, config: AdapterConfig, seed: int) -> PeftModel:
    """`model` with a new adapter inside: A from Kaiming's uniform, B = 0, so that it changes nothing."""
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers 6 drops
            torch.manual_seed(seed)
            peft_model = get_peft_model(model, lora_config(model, config))
        _check_rank(peft_model, f"adapter.rank = {config.rank}")
    except ValueError as error:
        _take_out(model)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"adapter.target_modules = {config.target_modules!r} does not fit the model: {error}"
        ) from error
    return peft_model


def _take_out(model: nn.Module) -> None:
    """Put back the layers that PEFT has wrapped, however far it came before it failed."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _check_rank(peft_model: PeftModel, what: str) -> None:
    for name, layer in _lora_layers(peft_model):
        rank, largest = layer.r["default"], min(layer.in_features, layer.out_features)
        if rank > largest:
            raise ConfigError(
                f"{what} is larger than the layer {name!r}, whose smaller side is {largest}; use a rank of "
                f"{largest} or less"
            )


def _lora_layers(peft_model: PeftModel) -> Iterator[tuple[str, Any]]:
    """The adapted layers by their name in the base model."""
    for name, layer in peft_model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and "default" in layer.lora_A:
            yield name, layer


def read_adapter(model: Any, folder: str | Path) -> Adapter:
    """The adapter in `folder`, checked against `model`, which is left as it was.

    Raises ConfigError for a missing or unreadable folder, an adapter of another base model, and kinds of
    adapter that singular values do not describe (DoRA, bias, embeddings, extra trained modules).
    """
    path = Path(folder)
    settings = adapter_settings(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            peft_model = PeftModel.from_pretrained(model, str(path), torch_device="cpu")
        modules = collect(peft_model)
        _check_complete(modules, load_peft_weights(str(path), device="cpu"))
        _check_rank(peft_model, f"adapter.path = {str(folder)!r}: its rank of {settings['r']}")
    except BROKEN as error:
        if isinstance(error, ConfigError):
            raise
        if isinstance(error, UnpicklingError) or "pickle" in str(error):
            raise ConfigError(
                f"adapter.path = {str(folder)!r}: {WEIGHTS[1]} holds more than tensors, and evolign runs "
                f"nothing from a pickle; convert it to {WEIGHTS[0]} where you trust it"
            ) from error
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"adapter.path = {str(folder)!r} does not fit the base model "
            f"(it was made for {settings.get('base_model_name_or_path')!r}): {cause}"
        ) from error
    finally:
        _take_out(model)
    return Adapter(modules, settings)


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises ConfigError for an incomplete folder or an unsuitable kind."""
    path = Path(folder)
    if not (path / "adapter_config.json").is_file():
        inside = path / "adapter"
        way_out = f"do you mean {str(inside)!r}?" if inside.is_dir() else "give a PEFT folder"
        raise ConfigError(f"adapter.path = {str(folder)!r} holds no adapter_config.json; {way_out}")
    try:
        settings: dict[str, Any] = json.loads((path / "adapter_config.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"adapter.path = {str(folder)!r}: adapter_config.json is broken: {error}"
        ) from error
    if not any((path / name).is_file() for name in WEIGHTS):  # PEFT would look for them on the hub
        raise ConfigError(
            f"adapter.path = {str(folder)!r} holds no {WEIGHTS[0]}; give a complete PEFT folder"
        )
    _check_kind(settings, str(folder))
    return settings


def _check_complete(modules: dict[str, Lora], tensors: dict[str, Tensor]) -> None:
    """PEFT leaves out in silence what the model has no layer for."""
    known = {f"base_model.model.{name}.lora_{factor}.weight" for name in modules for factor in "AB"}
    if len(tensors) != len(known):
        homeless = sorted(set(tensors) - known) or sorted(known - set(tensors))
        raise ValueError(
            f"its file holds {len(tensors)} tensors, where the model's linear layers take {len(known)}; "
            f"for example {homeless[0]!r}"
        )


def collect(peft_model: PeftModel) -> dict[str, Lora]:
    """The LoRA factors inside a PEFT model, as float32 copies on the CPU."""
    return {
        name: Lora(
            layer.lora_A["default"].weight.detach().float().cpu().clone(),
            layer.lora_B["default"].weight.detach().float().cpu().clone(),
            layer.scaling["default"],
        )
        for name, layer in _lora_layers(peft_model)
    }


def _check_kind(settings: Any, folder: str) -> None:
    if not isinstance(settings, dict):
        raise ConfigError(f"adapter.path = {folder!r}: adapter_config.json must hold a JSON object")
    if settings.get("peft_type") != "LORA":
        raise ConfigError(
            f"adapter.path = {folder!r} is a {settings.get('peft_type')} adapter; only LORA has the "
            "two factors that evolution searches"
        )
    for key, what in UNSUPPORTED.items():
        if settings.get(key) not in (None, False, "none", [], {}):
            raise ConfigError(
                f"adapter.path = {folder!r} uses {what} ({key}), which has no place in the search "
                "space; train a plain LoRA adapter"
            )
    start = settings.get("init_lora_weights", True)
    if start not in KEEP_BASE:
        raise ConfigError(
            f"adapter.path = {folder!r} was made with init_lora_weights = {start!r}, which changes the base "
            "weights as well; convert it to plain LoRA as PEFT's documentation describes"
        )


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
