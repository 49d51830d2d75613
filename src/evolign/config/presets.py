"""Presets: public data sets of instructions, summaries and preferences as tasks."""

from typing import Literal

from evolign.config.paths import Source
from evolign.config.rewards import RewardedConfig
from evolign.config.section import CountOrNone, Positive, Seed

REQUEST = (
    "Below is an instruction that describes a task. Write a response that completes it.\n\n"
    "### Instruction:\n{request}\n\n### Response:\n"
)


class PresetConfig(RewardedConfig):
    """What all presets have in common."""

    chat: bool = False
    """Send the prompt as chat messages through the tokenizer's chat template."""
    num_train: Positive | None = None
    """Rows to learn from; null: all that are left."""
    num_validation: Positive = 500
    """Rows that select the exported policy: of `validation`, or taken from `train` where it is null."""
    num_test: Positive | None = None
    """Rows to report on: of `test`, or taken from `train` where it is null; null: all of `test`."""
    num_warmup: CountOrNone = 0
    """Rows taken from `train` for the warm start."""
    max_prompt_words: Positive | None = 384
    """Longer requests are left out: 512 tokens at three words to four tokens; null: no limit."""
    max_completion_words: Positive | None = 96
    """Rows with longer responses are left out: 128 tokens at three words to four tokens; null: no limit."""
    metric: Literal["accuracy", "reward"] = "reward"
    """accuracy: the reward is 0 or 1, and intervals are Wilson's."""
    seed: Seed = 0
    """Seed of the split."""


class InstructionConfig(PresetConfig):
    """A preset whose rows are requests."""

    template: str = REQUEST
    """Text of the prompt; `{request}` stands for the instruction and its input."""


class DollyConfig(InstructionConfig):
    """Dolly (Conover et al. 2023): 15 011 instructions with responses, written by people."""

    name: Literal["dolly"] = "dolly"
    train: Source = "databricks/databricks-dolly-15k"
    """Hub name, or a file with `instruction`, `context` and `response`."""
    validation: Source | None = None
    """File or hub data set; null: taken from `train`."""
    test: Source | None = None
    """File or hub data set; null: taken from `train`."""
    num_validation: Positive = 1000
    """Rows that select the exported policy: of `validation`, or taken from `train` where it is null."""
    num_test: Positive | None = 500
    """Rows to report on: of `test`, or taken from `train` where it is null; null: all of `test`."""


class SelfInstructConfig(InstructionConfig):
    """Self-Instruct (Wang et al. 2023): 252 instructions that users could give, for evaluation."""

    name: Literal["self_instruct"] = "self_instruct"
    train: Source | None = None
    """Hub name, or a file with `instruction` and `instances`; null: the task is only for evaluation."""
    validation: Source | None = None
    """File or hub data set; null: taken from `train`."""
    test: Source | None = "yizhongw/self_instruct:human_eval@train"
    """Hub name, or a file with `instruction` and `instances`; null: taken from `train`."""
    max_prompt_words: Positive | None = None
    """Longer requests are left out; null: no limit."""
    max_completion_words: Positive | None = None
    """Rows with longer responses are left out; null: no limit."""


class VicunaConfig(InstructionConfig):
    """Vicuna (Chiang et al. 2023): 80 questions in nine categories, for evaluation."""

    name: Literal["vicuna"] = "vicuna"
    test: Source
    """A file with `question_id`, `category` and `turns`, as FastChat has it."""
    references: Source | None = None
    """A file of answers with `question_id` and `choices`, as FastChat has them; they are the references."""
    max_prompt_words: Positive | None = None
    """Longer requests are left out; null: no limit."""
    max_completion_words: Positive | None = None
    """Rows with longer responses are left out; null: no limit."""


class XsumConfig(InstructionConfig):
    """XSum (Narayan et al. 2018): news articles with a summary of one sentence."""

    name: Literal["xsum"] = "xsum"
    train: Source = "EdinburghNLP/xsum"
    """Hub name, or a file with `document` and `summary`."""
    validation: Source | None = "EdinburghNLP/xsum"
    """File or hub data set; null: taken from `train`."""
    test: Source | None = "EdinburghNLP/xsum"
    """File or hub data set; null: taken from `train`."""
    num_test: Positive | None = 1000
    """Rows to report on: of `test`, or taken from `train` where it is null; null: all of `test`."""
    instruction: str = "Summarise the following article in one sentence."
    """What the request says above the article."""


class HhConfig(PresetConfig):
    """HH (Bai et al. 2022): dialogues with a chosen and a rejected last turn of the assistant."""

    name: Literal["hh"] = "hh"
    train: Source = "Anthropic/hh-rlhf"
    """Hub name, or a file with `chosen` and `rejected`, each a whole dialogue."""
    validation: Source | None = None
    """File or hub data set; null: taken from `train`."""
    test: Source | None = "Anthropic/hh-rlhf"
    """File or hub data set; null: taken from `train`."""
    num_test: Positive | None = 500
    """Rows to report on: of `test`, or taken from `train` where it is null; null: all of `test`."""
