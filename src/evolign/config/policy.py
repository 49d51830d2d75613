"""The policy: base model, adapter, search space."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from evolign.config.paths import FolderOrName
from evolign.config.section import (
    Above0,
    AtMost,
    Batch,
    Name,
    Positive,
    Section,
    Share,
    Tokens,
)
from evolign.errors import shown

WIDTH = AtMost(65_536, "no layer of a model is wider, and a rank cannot exceed the width")
TERMS = AtMost(1024, "each is a direction of every factor, which is held and made orthogonal at every step")
TEMPLATE_ARGUMENTS = {
    *(
        "conversation",
        "messages",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "chat_template",
    ),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    *("padding", "truncation", "max_length"),
}
"""Arguments of apply_chat_template that decide what comes back, and no variables of a template."""
DEVICES = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?")
"""Where a model can live. torch also knows devices that hold nothing, such as `meta`."""


class ModelConfig(Section):
    """The base model."""

    name: FolderOrName = "embedded:arithmetic"
    """Hub name, local folder, or `embedded:<name>` for a model that ships with evolign."""
    revision: Name | None = None
    """Branch, tag or commit of a hub model; null is the newest."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, bfloat16 on a GPU."""
    quantization: Literal["int8", "int4"] | None = None
    """Store the frozen weights of linear layers in 8 or 4 bits; adapters and arithmetic keep `dtype`. Needs
    `pip install 'evolign[quant]'`."""
    device: str = "auto"
    """auto: the first GPU if there is one, else the CPU. Or `cpu`, `cuda:1`, `mps`."""
    trust_remote_code: bool = False
    """Run model code that comes with a hub model. Off: such models are refused."""
    system_prompt: str | None = None
    """System message of every prompt of chat messages that begins without one."""
    chat_template_kwargs: dict[str, Any] = {}
    """Further arguments of the chat template, such as {enable_thinking: false}."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _what_evolign_gives_the_template_stays(cls, given: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(TEMPLATE_ARGUMENTS & given.keys()):
            raise ValueError(
                f"model.chat_template_kwargs: {', '.join(taken)}: evolign gives the template these itself; "
                "leave them out, and put only variables that the template reads, such as enable_thinking"
            )
        return given

    @field_validator("device")
    @classmethod
    def _weights_can_live_there(cls, device: str) -> str:
        if not DEVICES.fullmatch(device):
            raise ValueError(
                f"model.device = {shown(device)}: must be auto, cpu, cuda, mps or xpu, with a number as in "
                "cuda:1 where there are several"
            )
        return device


class WarmStartConfig(Section):
    """Supervised fine-tuning of the adapter on the task's solved rows, before evolution (TRL)."""

    epochs: Above0 = 1.0
    """Passes over the warm-up rows."""
    max_steps: Positive | None = None
    """Optimiser steps; overrides `epochs` when set."""
    batch_size: Batch = 16
    """Rows per optimiser step."""
    learning_rate: Above0 = 1e-4
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Learning-rate schedule."""
    max_length: Tokens = 1024
    """Tokens of prompt and completion; longer rows are cut."""


class AdapterConfig(Section):
    """The LoRA adapter that is aligned."""

    rank: Annotated[int, Field(ge=1), WIDTH] = 8
    """Rank R of every adapted matrix."""
    lora_alpha: Above0 | None = None
    """LoRA scaling is lora_alpha / rank; null: lora_alpha = 2 * rank."""
    target_modules: Literal["attention", "all-linear"] | list[Name] = "attention"
    """attention: the query, key, value and output projections (the paper); all-linear: every linear
    layer but the output head, narrow gates, and what PEFT cannot adapt (a line says so); or a list of
    module names as in PEFT."""
    path: FolderOrName | None = None
    """An existing PEFT LoRA adapter to start from; rank and modules are then read from it."""
    warm_start: WarmStartConfig | None = WarmStartConfig()
    """Supervised fine-tuning before evolution; null: none. Ignored when `path` is given."""


class TrainedAdapterConfig(AdapterConfig):
    """The LoRA adapter that gradients train: a new one has no warm start unless asked for."""

    warm_start: WarmStartConfig | None = None
    """Supervised fine-tuning before the method itself, as `evolution` has it; null: none."""


class SingularValuesConfig(Section):
    """Search space of ESSA: additive offsets on the singular values of both LoRA factors."""

    name: Literal["singular_values"] = "singular_values"
    in_subspaces: ClassVar[bool] = False
    alpha: Share = 1.0
    """Share of singular values per factor, largest first, that may move: floor(alpha * rank)."""


class LoraSpaceConfig(Section):
    """All entries of both LoRA factors, searched in a subspace of their own at every step."""

    name: Literal["lora"] = "lora"
    in_subspaces: ClassVar[bool] = True
    terms: Annotated[int, Field(ge=1), TERMS] = 4
    """Random directions of each factor in a subspace, beside its current singular values."""


def values_that_move(alpha: float, rank: int) -> int:
    """floor(alpha * rank), the number of singular values of a factor that may move.

    The small addition makes 0.3 * 10 three, whatever its rounding.
    """
    return int(alpha * rank + 1e-9)


def check_alpha(space: SingularValuesConfig, adapter: AdapterConfig) -> None:
    """Raise ValueError if `space` leaves none of a new adapter's singular values to move."""
    if adapter.path is None and values_that_move(space.alpha, adapter.rank) == 0:
        raise ValueError(
            f"space.alpha = {space.alpha} leaves none of adapter.rank = {adapter.rank} singular values to "
            f"move, since floor(alpha * rank) = 0; use at least {1 / adapter.rank:.3g}"
        )
