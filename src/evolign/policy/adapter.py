"""LoRA adapters as plain tensors: made, read and written in PEFT's format, whatever the model.

The base model is only borrowed: PEFT layers are put in to learn names and shapes, and taken out.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from evolign import disk, untrusted
from evolign.config import AdapterConfig
from evolign.errors import ConfigError
from evolign.policy.search_memory import Layer
from evolign.policy.targets import lora_config

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
LARGEST = 1e6
"""What no entry of an update, and no scaling, of a useful adapter comes near."""
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

    @property
    def rank(self) -> int:
        """The largest rank of its modules; 1 without modules, as a rank cannot be less."""
        return max((len(lora.A) for lora in self.modules.values()), default=1)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names that PEFT gives them in a file."""
        tensors = {}
        for name, lora in self.modules.items():
            tensors[_key(name, "A")] = lora.A.contiguous()
            tensors[_key(name, "B")] = lora.B.contiguous()
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


def new_adapter(model: Any, config: AdapterConfig, seed: int, *, shapes_only: bool = False) -> PeftModel:
    """`model` with a new adapter inside: A from Kaiming's uniform, B = 0, so that it changes nothing.

    With `shapes_only`, the adapter takes no memory.
    """
    try:
        with putting_in():
            torch.manual_seed(seed)
            peft_model = get_peft_model(model, lora_config(model, config), low_cpu_mem_usage=shapes_only)
        _check_rank(peft_model, f"adapter.rank = {config.rank}")
    except ValueError as error:
        _take_out(model)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"adapter.target_modules = {config.target_modules!r} does not fit the model: {error}"
        ) from error
    return peft_model


@contextmanager
def putting_in() -> Iterator[None]:
    """Keep what PEFT draws and warns of, when it puts layers into a model, from the caller."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers 6 drops
        warnings.filterwarnings("ignore", "Model (has|with) `tie_word_embeddings=True`")  # see `merging`
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # see `_from_file`
        yield


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
                f"{largest} or less, or leave the layer out"
            )


def layers_of(peft_model: PeftModel) -> dict[str, Layer]:
    """The sizes of the adapted layers by their name in the base model."""
    return {
        name: Layer(layer.r["default"], layer.in_features, layer.out_features)
        for name, layer in _lora_layers(peft_model)
    }


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
        with putting_in():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            peft_model = PeftModel.from_pretrained(model, str(path), torch_device="cpu")
        tensors = load_peft_weights(str(path), device="cpu")
        _check_complete(adapted(peft_model), tensors)
        modules = _from_file(peft_model, tensors) if model.device.type == "meta" else collect(peft_model)
        check_numbers(modules, f"adapter.path = {str(folder)!r}", "restore its files")
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
        settings = untrusted.json_object(untrusted.text(path / "adapter_config.json"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"adapter.path = {str(folder)!r}: adapter_config.json is broken: {error}"
        ) from error
    if not any((path / name).is_file() for name in WEIGHTS):  # PEFT would look for them on the hub
        raise ConfigError(
            f"adapter.path = {str(folder)!r} holds no {WEIGHTS[0]}; give a complete PEFT folder"
        )
    _check_kind(settings, str(folder))
    return settings


def _check_complete(names: list[str], tensors: dict[str, Tensor]) -> None:
    """PEFT leaves out in silence what the model has no layer for."""
    known = {_key(name, factor) for name in names for factor in "AB"}
    if len(tensors) != len(known):
        homeless = sorted(set(tensors) - known) or sorted(known - set(tensors))
        raise ValueError(
            f"its file holds {len(tensors)} tensors, where the model's linear layers take {len(known)}; "
            f"for example {homeless[0]!r}"
        )


def _from_file(peft_model: PeftModel, tensors: dict[str, Tensor]) -> dict[str, Lora]:
    """The factors as the file has them, for a model on the meta device, where PEFT's layers are as well."""
    return {
        name: Lora(
            tensors[_key(name, "A")].float(), tensors[_key(name, "B")].float(), layer.scaling["default"]
        )
        for name, layer in _lora_layers(peft_model)
    }


def _key(name: str, factor: str) -> str:
    return f"base_model.model.{name}.lora_{factor}.weight"


def adapted(peft_model: PeftModel) -> list[str]:
    """The adapted layers by their name in the base model."""
    return [name for name, _ in _lora_layers(peft_model)]


def check_numbers(modules: Mapping[str, Lora], what: str, way_out: str) -> None:
    """Raise ConfigError for an adapter that is not finite, or so large that no model computes with it."""
    for name, lora in modules.items():
        most_A, most_B = (float(factor.abs().max()) for factor in (lora.A, lora.B))
        if not math.isfinite(most_A + most_B + lora.scaling):
            raise ConfigError(f"{what} holds NaN or infinite numbers, for example in {name!r}; {way_out}")
        if max(lora.scaling, lora.scaling * len(lora.A) * most_A * most_B) > LARGEST:
            raise ConfigError(
                f"{what} has diverged: entries of A up to {most_A:.2g}, of B up to {most_B:.2g}, times "
                f"{lora.scaling:.2g}, in {name!r}; {way_out}"
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


def _check_kind(settings: dict[str, Any], folder: str) -> None:
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
