"""LoRA adapters as plain tensors: made, read and written in PEFT's format, whatever the model.

The base model is only borrowed: PEFT layers are put in to learn names and shapes, and taken out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evolign.config import AdapterConfig
from evolign.errors import ConfigError

LINEAR = (nn.Linear, Conv1D)
ATTENTION = ("attn", "attention")


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

    def write(self, folder: Path) -> None:
        """Write a folder that PEFT's and vLLM's loaders accept."""
        tensors = {}
        for name, lora in self.modules.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = lora.A.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = lora.B.contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {**self.config, "inference_mode": True}
        if isinstance(config["target_modules"], list):
            config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n")


def lora_config(model: Any, config: AdapterConfig) -> LoraConfig:
    """PEFT's configuration of a new adapter on `model`."""
    alpha = 2 * config.rank if config.lora_alpha is None else config.lora_alpha
    targets = target_modules(model, config.target_modules)
    return LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")


def target_modules(model: Any, choice: str | list[str]) -> list[str]:
    """Shortest name endings that match the linear layers of `choice`, and no others."""
    if not isinstance(choice, str):
        return choice
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    if choice == "all-linear":
        head = model.get_output_embeddings()
        wanted = {name for name in linear if model.get_submodule(name) is not head}
    else:
        wanted = {
            name
            for name in linear
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft_model = get_peft_model(model, lora_config(model, config))
        except ValueError as error:
            raise ConfigError(
                f"adapter.target_modules = {config.target_modules!r} does not fit the model: {error}"
            ) from error
    _check_rank(collect(peft_model))
    return peft_model


def _check_rank(modules: dict[str, Lora]) -> None:
    for name, lora in modules.items():
        rank, largest = len(lora.A), min(lora.A.shape[1], lora.B.shape[0])
        if rank > largest:
            raise ConfigError(
                f"adapter.rank = {rank} is larger than the layer {name!r}, whose smaller side is "
                f"{largest}; use adapter.rank={largest} or less"
            )


def read_adapter(model: Any, folder: str | Path) -> Adapter:
    """The adapter in `folder`, checked against `model`, which is left as it was.

    Raises ConfigError for a missing or unreadable folder, an adapter of another base model, and kinds of
    adapter that singular values do not describe (DoRA, bias, embeddings, extra trained modules).
    """
    path = Path(folder)
    if not (path / "adapter_config.json").is_file():
        raise ConfigError(f"adapter.path = {str(folder)!r} holds no adapter_config.json; give a PEFT folder")
    try:
        settings = json.loads((path / "adapter_config.json").read_text())
        _check_kind(settings, str(folder))
        peft_model = PeftModel.from_pretrained(model, str(path), torch_device="cpu")
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"adapter.path = {str(folder)!r} does not fit the base model "
            f"(it was made for {settings_base(path)!r}): {cause}"
        ) from error
    try:
        return Adapter(collect(peft_model), settings)
    finally:
        peft_model.unload()


def settings_base(folder: Path) -> str | None:
    """The base model that an adapter folder names, if it can be read."""
    try:
        return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (ValueError, KeyError):
        return None


def collect(peft_model: PeftModel) -> dict[str, Lora]:
    """The LoRA factors inside a PEFT model, as float32 copies on the CPU."""
    modules = {}
    for name, layer in peft_model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and "default" in layer.lora_A:
            modules[name] = Lora(
                layer.lora_A["default"].weight.detach().float().cpu().clone(),
                layer.lora_B["default"].weight.detach().float().cpu().clone(),
                layer.scaling["default"],
            )
    return modules


def _check_kind(settings: dict[str, Any], folder: str) -> None:
    unsupported = {
        "use_dora": "DoRA",
        "lora_bias": "LoRA bias",
        "modules_to_save": "fully trained modules",
        "trainable_token_indices": "trained token embeddings",
    }
    if settings.get("peft_type") != "LORA":
        raise ConfigError(
            f"adapter.path = {folder!r} is a {settings.get('peft_type')} adapter; only LORA has the "
            "two factors that evolution searches"
        )
    for key, what in unsupported.items():
        if settings.get(key):
            raise ConfigError(
                f"adapter.path = {folder!r} uses {what} ({key}), which has no place in the search "
                "space; train a plain LoRA adapter"
            )


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
