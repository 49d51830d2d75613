"""Loading the base model and its tokenizer, and turning prompts into token ids."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evolign import embedded
from evolign.config import ModelConfig
from evolign.errors import ConfigError, UnreachableError
from evolign.policy.quantization import check_quantised, quantization_config
from evolign.types import Example, Prompt

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    """What `from_pretrained` accepts: it becomes `base_model_name_or_path` of the adapter."""

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        if not self.eos_token_ids:
            raise ConfigError(
                f"model.name = {self.name!r} has no end-of-sequence token, so no completion would "
                "ever end; set `eos_token` in its tokenizer_config.json"
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # padding is masked everywhere

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end a completion: the generation config's and the tokenizer's."""
        declared = self.model.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        return sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None})

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and completion that the model can hold; None is no known limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def render(self, prompt: Prompt) -> str:
        """A prompt as text: messages go through the chat template, or are joined without one."""
        if isinstance(prompt, str):
            return prompt
        if getattr(self.tokenizer, "chat_template", None):
            try:
                return self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # templates raise what they like of roles that they do not know
                raise ConfigError(
                    f"the chat template of {self.name!r} refuses the messages {str(prompt)!r:.200}: {error}; "
                    "leave out what it refuses (often the system message), or give another template"
                ) from error
        return "\n\n".join(message["content"] for message in prompt) + "\n\n"

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. A chat template brings its own special tokens."""
        templated = not isinstance(prompt, str) and getattr(self.tokenizer, "chat_template", None)
        return self.tokenizer(self.render(prompt), add_special_tokens=not templated)["input_ids"]

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, its end-of-sequence token included."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id or self.eos_token_ids[0]]

    def encode_prompts(self, examples: Iterable[Example], max_new_tokens: int) -> dict[str, list[int]]:
        """Token ids by example id, each encoded once. Raises ConfigError for an empty or too long prompt."""
        encoded = {}
        for example in {example.id: example for example in examples}.values():
            tokens = self.encode(example.prompt)
            if not tokens:
                raise ConfigError(f"prompt {_shown(example)} has no tokens; a prompt needs at least one")
            if self.context_length is not None and len(tokens) + max_new_tokens > self.context_length:
                raise ConfigError(
                    f"prompt {_shown(example)} has {len(tokens)} tokens and sampling.max_new_tokens = "
                    f"{max_new_tokens}, together more than the model's context of {self.context_length}; "
                    "shorten or drop the prompt, or lower sampling.max_new_tokens"
                )
            encoded[example.id] = tokens
        return encoded

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Text of a completion, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)


def _shown(example: Example) -> str:
    return f"{example.id!r} ({str(example.prompt)!r:.60})"


def load_base_model(config: ModelConfig) -> BaseModel:
    """Load what `config` names. Raises ConfigError where it is missing, broken or unsupported."""
    architecture, tokenizer, dtype = load_architecture(config)
    device = model_device(config.device)
    quantised: dict[str, Any] = {}
    if config.quantization is not None:
        settings = quantization_config(config, architecture, device, dtype)
        quantised = {"quantization_config": settings, "device_map": {"": device}}
    with _explained(config.name):
        model = AutoModelForCausalLM.from_pretrained(
            source(config.name),
            config=architecture,
            dtype=dtype,
            use_safetensors=True,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            **quantised,
        )
    if quantised:
        check_quantised(model, config)
    else:
        model = model.to(device)
    return BaseModel(model, tokenizer, source(config.name))


def load_architecture(config: ModelConfig) -> tuple[Any, Any, torch.dtype]:
    """What is known of a model without its weights: configuration, tokenizer and dtype."""
    shared = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with _explained(config.name):
        architecture = AutoConfig.from_pretrained(source(config.name), **shared)
        tokenizer = AutoTokenizer.from_pretrained(source(config.name), **shared)
    return architecture, tokenizer, _dtype(config.dtype, model_device(config.device))


def source(name: str) -> str:
    """What transformers is asked for: a folder or a hub name."""
    if name.startswith("embedded:"):
        return str(embedded.path(name.removeprefix("embedded:")))
    return name


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever transformers raises into a sentence with a way out."""
    try:
        yield
    except Exception as error:  # transformers raises many kinds for one cause
        cause = f"{(str(error).strip().splitlines() or [''])[0]} ({type(error).__name__})"
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
