"""The configurations of the methods that train by gradients."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evolign.config.inference import TOKENS_HELD, SamplingConfig
from evolign.config.needs import Needs
from evolign.config.policy import SingularValuesConfig, TrainedAdapterConfig, check_alpha
from evolign.config.run import Config
from evolign.config.section import (
    Above0,
    Auto,
    Batch,
    CountOrNone,
    Goal,
    Minutes,
    NotBelow0,
    Number,
    Positive,
    Section,
    Share,
    Tokens,
)


class TrainingConfig(Section):
    """Gradient descent by the Trainer of transformers: AdamW; defaults are the ESO paper's."""

    epochs: Above0 = 5.0
    """Passes over the training rows."""
    max_steps: Positive | None = None
    """Optimiser steps; overrides `epochs` when set."""
    max_completions: Positive | None = None
    """Stop after this number of completions sampled for training."""
    max_minutes: Minutes | None = None
    """Stop after this number of minutes of training."""
    target: Goal | None = None
    """Stop when the validation metric reaches this."""
    batch_size: Batch = 16
    """Rows, or prompts, per optimiser step."""
    micro_batch_size: Batch | None = None
    """Rows per forward and backward pass; gradients are accumulated over them. null: all at once."""
    learning_rate: Above0 = 5e-5
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning-rate schedule."""
    warmup_steps: CountOrNone = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: NotBelow0 = 0.05
    """Decoupled weight decay."""
    max_grad_norm: Above0 = 1.0
    """Gradients are clipped to this norm."""
    max_length: Tokens = 640
    """Tokens of prompt and completion; longer training rows are cut."""
    gradient_checkpointing: bool | Auto = "auto"
    """Compute activations again in the backward pass to save memory; auto: on a GPU."""


class GradientConfig(Config):
    """What all methods that train by gradients have in common."""

    adapter: TrainedAdapterConfig | None = TrainedAdapterConfig()
    """What is trained; null: all weights of the model."""
    space: SingularValuesConfig | None = None
    """Train only the singular values of the adapter's factors; null: train the factors."""
    training: TrainingConfig = TrainingConfig()

    @property
    def needs(self) -> Needs:
        """What the method asks of a task."""
        return Needs("solved")

    @property
    def rows_per_step(self) -> int:
        """Rows, or completions, that go through the model for one optimiser step."""
        return self.training.batch_size

    @model_validator(mode="after")
    def _singular_values_can_move(self) -> "GradientConfig":
        if self.space is not None and self.adapter is None:
            raise ValueError(
                "space trains the singular values of an adapter, but adapter = null trains all weights; "
                "leave out one of them"
            )
        if self.space is not None and self.adapter is not None:
            check_alpha(self.space, self.adapter)
        return self

    @model_validator(mode="after")
    def _the_engine_follows_the_weights(self) -> "GradientConfig":
        if not self.engine.abilities.live_weights:
            raise ValueError(
                f"engine.name = {self.engine.name!r} cannot sample from weights that a trainer changes; use "
                "engine.name = transformers"
            )
        return self

    @model_validator(mode="after")
    def _what_is_trained_is_not_quantised(self) -> "GradientConfig":
        if self.model.quantization is not None and self.adapter is None:
            raise ValueError(
                f"model.quantization = {self.model.quantization!r} freezes the base model, but adapter = "
                "null trains all of its weights; train an adapter, or leave model.quantization out"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches_make_a_batch(self) -> "GradientConfig":
        rows, micro = self.rows_per_step, self.training.micro_batch_size
        if micro is not None and rows % micro:
            raise ValueError(
                f"training.micro_batch_size = {micro} must divide the {rows} rows of an optimiser step; use "
                f"{max(n for n in range(1, min(micro, rows) + 1) if rows % n == 0)}"
            )
        return self


class SftConfig(GradientConfig):
    """Supervised fine-tuning on reference completions."""

    method: Literal["sft"] = "sft"
    """How to align: see `evolign list`."""


class OnPolicyObjectiveConfig(Section):
    """Responses sampled during training, one per temperature; their loss is added to that of SFT."""

    weight: NotBelow0 = 0.05
    """lambda in L = L_sft + lambda * L_objective."""
    temperatures: Annotated[list[Above0], Field(min_length=1)] = [0.5, 1.0, 1.5, 2.0]
    """One response is sampled per prompt at each of them."""
    from_epoch: Positive | Literal["last"] = "last"
    """First epoch in which the objective joins; 1 is from the start, last the final epoch only (paper)."""
    log_probability: Literal["sum", "mean"] = "sum"
    """Of a response: the sum over its tokens (paper), or their mean."""

    def check_epochs(self, epochs: float) -> None:
        """Raise ValueError where the objective would join after all of so many epochs."""
        if self.from_epoch != "last" and self.from_epoch > math.ceil(epochs):
            raise ValueError(
                f"objective.from_epoch = {self.from_epoch} is after the last of {math.ceil(epochs)} epochs, "
                "so the run would be plain supervised fine-tuning; use an earlier epoch, last, or method = "
                "sft"
            )


class RrhfObjectiveConfig(OnPolicyObjectiveConfig):
    """Like `OnPolicyObjectiveConfig`, with RRHF's default weight and per-token log-probabilities."""

    weight: NotBelow0 = 1.0
    """lambda in L = L_sft + lambda * L_rank."""
    log_probability: Literal["sum", "mean"] = "mean"
    """Of a response: the mean over its tokens (paper), or their sum."""


class OnPolicyConfig(GradientConfig):
    """What ESO and its family have in common."""

    objective: OnPolicyObjectiveConfig = OnPolicyObjectiveConfig()

    @model_validator(mode="after")
    def _the_objective_joins(self) -> "OnPolicyConfig":
        if self.training.max_steps is None:
            self.objective.check_epochs(self.training.epochs)
        return self


class EsoConfig(OnPolicyConfig):
    """Evolution Strategy Optimization."""

    method: Literal["eso"] = "eso"
    """How to align: see `evolign list`."""
    objective: OnPolicyObjectiveConfig = OnPolicyObjectiveConfig()


class UnlikelihoodConfig(OnPolicyConfig):
    """Unlikelihood of sampled responses that score below their prompt's mean."""

    method: Literal["unlikelihood"] = "unlikelihood"
    """How to align: see `evolign list`."""
    objective: OnPolicyObjectiveConfig = OnPolicyObjectiveConfig()


class SelfCriticalConfig(OnPolicyConfig):
    """Self-critical policy gradient: the greedy response is the baseline."""

    method: Literal["self_critical"] = "self_critical"
    """How to align: see `evolign list`."""
    objective: OnPolicyObjectiveConfig = OnPolicyObjectiveConfig()


class RrhfConfig(OnPolicyConfig):
    """Ranking of responses by their reward."""

    method: Literal["rrhf"] = "rrhf"
    """How to align: see `evolign list`."""
    objective: RrhfObjectiveConfig = RrhfObjectiveConfig()


class PpoObjectiveConfig(Section):
    """Proximal policy optimisation (Schulman et al. 2017) with a value head on the policy."""

    epochs: Positive = 4
    """Passes over each batch of completions."""
    mini_batches: Batch = 1
    """Parts into which each pass is cut; one optimiser step each."""
    clip: Above0 = 0.2
    """Probability ratios count as if they lay in 1 - clip to 1 + clip."""
    value_clip: Above0 = 0.2
    """Values count as if they had moved by this at most."""
    value_weight: NotBelow0 = 0.1
    """Weight of the value loss."""
    kl_weight: NotBelow0 = 0.05
    """Per-token KL to the policy at the start, taken off the reward."""
    gamma: Share = 1.0
    """Discount per token."""
    gae_lambda: Annotated[float, Field(ge=0, le=1), Number()] = 0.95
    """lambda of generalised advantage estimation (Schulman et al. 2016)."""
    whiten: bool = True
    """Scale a batch's advantages to mean 0 and standard deviation 1."""


class SampledConfig(GradientConfig):
    """What the methods have in common that learn from nothing but their own completions."""

    sampling: SamplingConfig = SamplingConfig()

    @property
    def needs(self) -> Needs:
        """See `GradientConfig.needs`."""
        return Needs("prompts")

    @property
    def rows_per_step(self) -> int:
        """See `GradientConfig.rows_per_step`."""
        return self.training.batch_size * self.sampling.samples_per_prompt

    @model_validator(mode="after")
    def _a_step_fits_into_memory(self) -> "SampledConfig":
        tokens = self.rows_per_step * self.sampling.max_new_tokens
        if tokens > TOKENS_HELD:
            raise ValueError(
                f"training.batch_size * sampling.samples_per_prompt: {self.rows_per_step:,} completions of "
                f"up to {self.sampling.max_new_tokens:,} tokens; a step holds all of them, so they must "
                f"be at most {TOKENS_HELD:,} tokens: lower one of these"
            )
        return self

    @model_validator(mode="after")
    def _completions_are_sampled(self) -> "SampledConfig":
        if self.sampling.temperature == 0:
            raise ValueError(
                f"sampling.temperature = 0: method = {self.method!r} needs completions that were sampled; "
                "use a temperature above 0, for example 1"
            )
        return self


class PpoConfig(SampledConfig):
    """Proximal policy optimisation."""

    method: Literal["ppo"] = "ppo"
    """How to align: see `evolign list`."""
    objective: PpoObjectiveConfig = PpoObjectiveConfig()

    @model_validator(mode="after")
    def _mini_batches_have_rows(self) -> "PpoConfig":
        if self.objective.mini_batches > self.rows_per_step:
            raise ValueError(
                f"objective.mini_batches = {self.objective.mini_batches}, but a batch has "
                f"{self.rows_per_step} completions (training.batch_size * "
                "sampling.samples_per_prompt); use at most that many"
            )
        return self


class DpoObjectiveConfig(Section):
    """Direct preference optimisation (Rafailov et al. 2023), by TRL."""

    beta: Above0 = 0.1
    """Strength of the tie to the policy at the start."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """Which of TRL's losses."""


class DpoConfig(GradientConfig):
    """Direct preference optimisation on pairs of completions."""

    method: Literal["dpo"] = "dpo"
    """How to align: see `evolign list`."""
    objective: DpoObjectiveConfig = DpoObjectiveConfig()

    @property
    def needs(self) -> Needs:
        """See `GradientConfig.needs`."""
        return Needs("pairs")


class GrpoObjectiveConfig(Section):
    """Group relative policy optimisation (Shao et al. 2024), by TRL, with TRL's defaults."""

    beta: NotBelow0 = 0.0
    """Weight of the KL to the policy at the start."""
    epsilon: Above0 = 0.2
    """Probability ratios are clipped to 1 - epsilon to 1 + epsilon."""
    iterations: Positive = 1
    """Optimiser steps per batch of completions."""
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """Which of TRL's normalisations of the loss."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantages' standard deviation is taken over."""


class GrpoConfig(SampledConfig):
    """Group relative policy optimisation."""

    method: Literal["grpo"] = "grpo"
    """How to align: see `evolign list`."""
    sampling: SamplingConfig = SamplingConfig(samples_per_prompt=8)
    objective: GrpoObjectiveConfig = GrpoObjectiveConfig()

    @property
    def needs(self) -> Needs:
        """See `GradientConfig.needs`."""
        return Needs("prompts", self.training.batch_size, "training.batch_size")

    @model_validator(mode="after")
    def _groups_have_something_to_compare(self) -> "GrpoConfig":
        if self.sampling.samples_per_prompt < 2:
            raise ValueError(
                f"sampling.samples_per_prompt = {self.sampling.samples_per_prompt}: method = 'grpo' weighs a "
                "prompt's completions against each other; use 2 or more, for example 8"
            )
        return self


class RewardModelConfig(GradientConfig):
    """A reward model, trained on pairs of completions (Bradley and Terry 1952; TRL)."""

    method: Literal["reward_model"] = "reward_model"
    """How to align: see `evolign list`."""

    @property
    def needs(self) -> Needs:
        """See `GradientConfig.needs`."""
        return Needs("pairs")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "RewardModelConfig":
        adapter = self.adapter
        if self.space is not None or (adapter and (adapter.path or adapter.warm_start)):
            raise ValueError(
                "space, adapter.path and adapter.warm_start are for language models; method = 'reward_model' "
                "trains a new adapter and a score head: leave them out"
            )
        if self.model.quantization is not None:
            raise ValueError(
                f"model.quantization = {self.model.quantization!r}: method = 'reward_model' writes a whole "
                "classifier in float32; leave model.quantization out"
            )
        return self
