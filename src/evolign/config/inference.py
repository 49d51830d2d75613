"""Inference: sampling and evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from evolign.config.section import AtMost, Auto, Batch, CountOrNone, Positive, Section, Tokens

HOT = AtMost(1000, "sampling is as good as uniform long before")
TOKENS_HELD = 2**31
"""Tokens of a generation's, or a step's, completions: 16 GB of ids, and as much of text."""


class LengthConfig(Section):
    """How long completions may get."""

    max_new_tokens: Tokens = 128
    """Tokens of a completion at most."""


class SamplingConfig(LengthConfig):
    """How completions are drawn while the policy learns. Nothing else is used: of the model's
    generation_config.json, only the end-of-sequence tokens count."""

    temperature: Annotated[float, Field(ge=0), HOT] = 1.0
    """0 decodes greedily."""
    samples_per_prompt: Batch = 1
    """Completions per prompt and candidate; their mean is the fitness, or the baseline of their group."""


class EvaluationConfig(Section):
    """How the mean policy is evaluated: on validation prompts during the run, on test prompts after."""

    every: Positive = 10
    """Generations, or optimiser steps, between validations."""
    decoding: Annotated[list[Literal["greedy", "sampled"]], Field(min_length=1)] = ["greedy", "sampled"]
    """Ways to decode; sampled is at temperature 1."""
    select_by: Literal["greedy", "sampled"] = "greedy"
    """Which of them selects the exported policy and is held against the run's `target`; ties are
    decided by the other."""
    num_samples_kept: CountOrNone = 8
    """Completions written to samples.jsonl per evaluation."""
    rouge: bool | Auto = "auto"
    """ROUGE-1, -2 and -L against the reference completions; auto: where there are any."""
    samples: Batch = 1
    """Completions per prompt of the decoding `sampled`; all metrics are means over them."""
    pass_at: list[Batch] = []
    """Values of k for which pass@k is estimated from the samples (Chen et al. 2021), such as
    [1, 4, 16]; accuracy tasks only."""

    @model_validator(mode="after")
    def _selection_is_measured(self) -> "EvaluationConfig":
        if self.select_by not in self.decoding:
            raise ValueError(
                f"evaluation.select_by = {self.select_by!r} is not measured; add it to "
                f"evaluation.decoding = {self.decoding} or select by {self.decoding[0]!r}"
            )
        return self

    @model_validator(mode="after")
    def _samples_suffice(self) -> "EvaluationConfig":
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(
                f"evaluation.pass_at = {self.pass_at} needs at least {max(self.pass_at)} samples per prompt; "
                f"set evaluation.samples = {max(self.pass_at)} or more (it is {self.samples})"
            )
        if len(set(self.pass_at)) < len(self.pass_at):
            raise ValueError(f"evaluation.pass_at = {self.pass_at} names a k twice; leave one of them out")
        if (self.samples > 1 or self.pass_at) and "sampled" not in self.decoding:
            raise ValueError(
                f"evaluation.samples = {self.samples} needs sampling, but evaluation.decoding = "
                f"{self.decoding}; add sampled to it, or leave evaluation.samples and pass_at out"
            )
        return self
