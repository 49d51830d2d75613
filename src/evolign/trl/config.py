"""`evolign.trl.EvolutionConfig`: GRPOConfig's arguments where they mean something for evolution, and ours."""

import dataclasses
import os
import warnings
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments
from trl import GRPOConfig

from evolign.errors import ConfigError, shown
from evolign.trl.arguments import MEANS, REFUSED, WITHOUT_EFFECT, reasons

PROMPTS = 64
"""Prompts of a generation where no batch size is given."""
IN_PASSING = {
    "gradient_checkpointing": False,
    "activation_checkpointing": None,
    "bf16": False,
    "fp16": False,
    "load_best_model_at_end": False,
    "accelerator_config": None,
}
"""What transformers would check against this machine's GPU, or deprecate, though it has no effect here."""


@dataclass(repr=False)
class EvolutionConfig(GRPOConfig):
    """The arguments of an `EvolutionTrainer`: those of GRPOConfig, and the last nine.

    It is a GRPOConfig, so that command-line parsers and callbacks read it. `docs/from_grpo.md` tells what
    becomes of every argument; one that means nothing here is a ConfigError, unless it has its default. A
    recipe's configuration is another class, `evolign.Config`.
    """

    per_device_train_batch_size: int | None = None
    importance_sampling_level: str = "sequence"
    scale_rewards: str = "none"
    fitness: str = dataclasses.field(default="likelihood", metadata={"help": "likelihood, or reward (ESSA)."})
    space: str | None = dataclasses.field(
        default=None,
        metadata={"help": "lora or singular_values. Default: lora for likelihood, else singular_values."},
    )
    strategy: str | None = dataclasses.field(
        default=None,
        metadata={"help": "A strategy of `evolign list`. Default: openai_es for likelihood, else cma_es."},
    )
    population: int | None = dataclasses.field(
        default=None,
        metadata={"help": "Candidates. Default: 24; for likelihood 192, or two for each prompt if more."},
    )
    sigma: float | None = dataclasses.field(
        default=None, metadata={"help": "Initial step size in units of theta. Default: it is calibrated."}
    )
    num_validation: int | None = dataclasses.field(
        default=None,
        metadata={"help": "Training rows for validation. Default: a tenth, at most 100; 0 if eval_dataset."},
    )
    adapter: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of a PEFT LoRA adapter to start from. Default: a new one."}
    )
    metric: str = dataclasses.field(
        default="reward", metadata={"help": "reward, or accuracy where the reward is 0 or 1."}
    )
    recipe: dict[str, Any] | None = dataclasses.field(
        default=None, metadata={"help": "Sections of a recipe, on top of everything else."}
    )

    def __post_init__(self) -> None:
        checked = DEFAULTS.keys() - MEANS.keys() - reasons(WITHOUT_EFFECT).keys()
        refuse({name: getattr(self, name) for name in DEFAULTS if name in checked}, DEFAULTS)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"WORLD_SIZE = {os.environ['WORLD_SIZE']}: a run of evolution has one process and one "
                "device; start the script with `python`"
            )
        self._set_batch()
        kept = {name: getattr(self, name) for name in IN_PASSING if hasattr(self, name)}
        for name in kept:
            setattr(self, name, IN_PASSING[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            TrainingArguments.__post_init__(self)  # GRPOConfig's own checks GRPO's batches
        for name, value in kept.items():
            setattr(self, name, value)

    def _set_batch(self) -> None:
        """Find `generation_batch_size`, as TRL does, and check that it is whole prompts."""
        if self.num_generations < 1:
            raise ConfigError(f"num_generations = {self.num_generations} must be at least 1")
        if self.per_device_train_batch_size is None:
            factor = self.steps_per_generation or self.gradient_accumulation_steps
            self.per_device_train_batch_size = 8 if factor > 1 else PROMPTS * self.num_generations
        if self.prompts_per_generation * self.num_generations != self._completions:
            raise ConfigError(
                f"{self._completions} completions of a generation (generation_batch_size, or "
                "per_device_train_batch_size * gradient_accumulation_steps) must be divisible by "
                f"num_generations = {self.num_generations}"
            )

    @property
    def _completions(self) -> int:
        if self.generation_batch_size is not None:
            return int(self.generation_batch_size)
        assert self.per_device_train_batch_size is not None
        factor = self.steps_per_generation or self.gradient_accumulation_steps
        return int(self.per_device_train_batch_size * factor)

    @property
    def prompts_per_generation(self) -> int:
        """Prompts of a generation at most; a data set may have fewer."""
        return self._completions // int(self.num_generations)

    def __repr__(self) -> str:
        return str(TrainingArguments.__str__(self))  # dataclass's would show hub_token


REASONS = reasons(REFUSED)
UNKNOWN = "only some versions of TRL have it"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


DEFAULTS = {field.name: _default(field) for field in dataclasses.fields(GRPOConfig)}


def refuse(given: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise ConfigError for every argument in `given` that is not as in `defaults`, with its reason."""
    wrong = [name for name, value in given.items() if not _same(value, defaults.get(name))]
    if wrong:
        lines = [f"  {name} = {shown(given[name])}: {REASONS.get(name, UNKNOWN)}" for name in wrong]
        raise ConfigError(
            "these arguments of GRPO mean nothing for evolution; leave them out "
            "(docs/from_grpo.md):\n" + "\n".join(lines)
        )


def _same(value: Any, default: Any) -> bool:
    """Whether two values ask for the same; every empty value asks for nothing, and so does `no`."""
    try:
        empty = [not given or given == "no" for given in (value, default)]
        return bool(value == default) or all(empty)
    except Exception:  # whatever a comparison of user's objects raises
        return False
