"""Loading the base model and its tokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from evolign import embedded
from evolign.config import ModelConfig
from evolign.config.paths import absolute_folder
from evolign.errors import ConfigError, UnreachableError, first_line
from evolign.policy.encoder import EncodedPrompts, PromptEncoder
from evolign.policy.quantization import check_quantised, quantization_config
from evolign.policy.weights import check_finite, check_keys

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_SAMPLING = (
    *("eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_"),
    *("use_cache", "cache_", "output_", "return_", "is_assistant"),
)
"""How the names begin of what a generation config says besides how tokens are drawn."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    """What `from_pretrained` accepts: it becomes `base_model_name_or_path` of the adapter."""
    loaded_from: ModelConfig | None = None
    """How another process loads the same model; None: the model is an object of this process."""
    prompting: ModelConfig | None = None
    """Whose system prompt and chat template arguments count; None: those of `loaded_from`, if it is given."""

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        check_finite(self.model, f"model.name = {self.name!r}")
        if not self.eos_token_ids:
            raise ConfigError(
                f"model.name = {self.name!r} has no end-of-sequence token, so no completion would "
                "ever end; set `eos_token` in its tokenizer_config.json"
            )
        if self.tokenizer.pad_token_id is None or self.tokenizer.pad_token_id >= self.embeddings:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # padding is masked everywhere

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end a completion: the generation config's and the tokenizer's."""
        declared = self.model.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        return sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None})

    @property
    def embeddings(self) -> int:
        """Tokens that the model has an embedding for; a tokenizer may know more."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight.shape[0]

    @cached_property
    def encoder(self) -> PromptEncoder:
        """From prompts to token ids and from tokens to text, as this model was made for."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        settings = self.prompting or self.loaded_from or ModelConfig()
        return PromptEncoder(
            self.tokenizer,
            self.name,
            self.eos_token_ids,
            limit,
            self.embeddings,
            settings.system_prompt,
            settings.chat_template_kwargs,
        )

    @cached_property
    def prompts(self) -> EncodedPrompts:
        """The prompts that were encoded so far."""
        return EncodedPrompts(self.encoder)


def load_base_model(config: ModelConfig, *, shapes_only: bool = False) -> BaseModel:
    """Load what `config` names. Raises ConfigError where it is missing, broken or unsupported.

    With `shapes_only` the weights are named in the files and not read: they lie on torch's meta device.
    """
    architecture, tokenizer, dtype = load_architecture(config)
    device = model_device(config.device)
    placed: dict[str, Any] = {"device_map": {"": "meta"}} if shapes_only else {}
    if config.quantization is not None and not shapes_only:
        settings = quantization_config(config, architecture, device, dtype)
        placed = {"quantization_config": settings, "device_map": {"": device}}
    with _explained(config.name):
        model, report = AutoModelForCausalLM.from_pretrained(
            source(config.name),
            config=architecture,
            dtype=dtype,
            use_safetensors=True,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **placed,
        )
    check_keys(report, f"model.name = {config.name!r}")
    if "quantization_config" in placed:
        check_quantised(model, config)
    elif not shapes_only:
        model = model.to(device)
    return BaseModel(model, tokenizer, source(config.name), config)


def load_architecture(config: ModelConfig) -> tuple[Any, Any, torch.dtype]:
    """What is known of a model without its weights: configuration, tokenizer and dtype."""
    shared = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with _explained(config.name):
        architecture = AutoConfig.from_pretrained(source(config.name), **shared)
        tokenizer = AutoTokenizer.from_pretrained(source(config.name), **shared)
    return architecture, tokenizer, _dtype(config.dtype, model_device(config.device))


def generation_settings(config: ModelConfig) -> list[str]:
    """What the model's generation_config.json says of sampling; no run uses it, so that runs compare."""
    try:
        found = GenerationConfig.from_pretrained(source(config.name), revision=config.revision)
    except (OSError, ValueError):  # most small models have none
        return []
    said = found.to_diff_dict()
    named = sorted(name for name in said if not name.startswith(NOT_SAMPLING))
    return [f"{name} = {said[name]}" for name in named]


def source(name: str) -> str:
    """What transformers is asked for: an absolute folder or a hub name."""
    if name.startswith("embedded:"):
        return str(embedded.path(name.removeprefix("embedded:")))
    return absolute_folder(name)


def weights_are_here(config: ModelConfig) -> bool:
    """Whether the weights that `config` names lie in a folder or in the hub's cache: nothing is fetched."""
    name = source(config.name)
    if Path(name).is_dir():
        return True
    files = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    found = [try_to_load_from_cache(name, file, revision=config.revision) for file in files]
    return any(isinstance(path, str) for path in found)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever transformers raises into a sentence with a way out."""
    try:
        yield
    except Exception as error:  # transformers raises many kinds for one cause
        cause = f"{first_line(error)} ({type(error).__name__})"
        if Path(source(name)).is_dir():
            raise ConfigError(
                f"model.name = {name!r} could not be loaded: {cause}; the folder needs config.json, "
                "*.safetensors and tokenizer files"
            ) from error
        if name.startswith((".", "/", "~")):
            raise ConfigError(
                f"model.name = {name!r} is not a folder; give a model folder, a hub name or "
                "embedded:arithmetic"
            ) from error
        raise UnreachableError(
            f"model.name = {name!r} is no folder here and could not be fetched: {cause}; check the spelling "
            "and the network, or give a local folder"
        ) from error


def model_device(name: str) -> torch.device:
    """What `model.device` stands for here. Raises ConfigError for what cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device = {name!r} cannot be used: {error}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]
