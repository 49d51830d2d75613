"""Tasks: where prompts come from, and how their reward is run."""

from typing import Annotated, Literal

from pydantic import Field

from evolign.config.paths import RewardName, Source
from evolign.config.presets import DollyConfig, HhConfig, SelfInstructConfig, VicunaConfig, XsumConfig
from evolign.config.rewards import RewardedConfig
from evolign.config.section import AtMost, Batch, CountOrNone, Goal, Made, Name, Positive, Section, Seed

INSTRUCTION = "Please reason step by step and place your final answer in \\boxed{}."
LIVE_ROWS = "(live rows)"
"""What config.json says of rows that were handed over in Python."""

WORKERS = AtMost(256, "each is a process of its own that loads the reward, of 30 MB at least")
WEEK = AtMost(604_800, "that is a week, and the system's timers end not much later")


class ArithmeticConfig(Section):
    """Generated arithmetic problems: the task of the embedded model."""

    name: Literal["arithmetic"] = "arithmetic"
    num_train: Made = 2000
    """Prompts that evolution draws from."""
    num_validation: Made = 200
    """Prompts that select the exported policy."""
    num_test: Made = 500
    """Prompts that the result is reported on; used for nothing else."""
    num_warmup: Made = 48
    """Solved rows for the warm start."""
    solved: bool = False
    """Give every row of train, validation and test its careful solution and a wrong one: references for
    `sft` and `eso`, pairs for `dpo` and `reward_model`."""
    operations: list[str] | None = None
    """Kinds of problem; null: all of them."""
    seed: Seed = 0
    """Seed of the problems, apart from the run's seed, so that runs share their data."""


class SummariesConfig(RewardedConfig):
    """Generated texts with summaries of one sentence: the task of the embedded summary model."""

    name: Literal["summaries"] = "summaries"
    variant: Literal["plain", "ood"] = "plain"
    """plain: the texts that the embedded model was trained on; ood: longer ones, of other sentences, about
    other things and places."""
    num_train: Made = 1000
    """Texts to learn from."""
    num_validation: Made = 100
    """Texts that select the exported policy."""
    num_test: Made = 200
    """Texts that the result is reported on; used for nothing else."""
    num_warmup: Made = 64
    """Texts for the warm start."""
    seed: Seed = 0
    """Seed of the texts, apart from the run's seed, so that runs share their data."""


class Gsm8kConfig(Section):
    """GSM8K (Cobbe et al. 2021), graded by the number in the box."""

    name: Literal["gsm8k"] = "gsm8k"
    train: Source = "openai/gsm8k"
    """Hub name, or a local JSONL file with `question` and `answer`."""
    test: Source = "openai/gsm8k"
    """Hub name, or a local JSONL file with `question` and `answer`."""
    num_warmup: Positive = 1495
    """Rows of the training file kept for the warm start (paper: 1495)."""
    num_validation: Positive = 256
    """Rows of the training file kept to select the exported policy."""
    num_train: Positive | None = None
    """Rows of the training file that evolution draws from; null: all that are left."""
    num_test: Positive | None = None
    """Rows of the test file to report on; null: all 1319."""
    instruction: str = INSTRUCTION
    """Appended to every question (the paper's by default)."""
    seed: Seed = 0
    """Seed of the split."""


class RowsConfig(RewardedConfig):
    """Your own rows: JSONL, JSON, CSV, Parquet or a hub data set."""

    name: Literal["rows"] = "rows"
    train: Source | None = None
    """File or hub data set to learn from; null: the task is only for evaluation."""
    validation: Source | None = None
    """File or hub data set that selects the exported policy; null: taken from `train`."""
    test: Source | None = None
    """File or hub data set to report on; null: `num_test` rows of `train`."""
    warmup: Source | None = None
    """File or hub data set with solved rows for the warm start; null: `num_warmup` rows of `train`."""
    prompt: str = "prompt"
    """A column, or a template over columns such as `"Question: {question}\\nAnswer:"`."""
    completion: str | None = None
    """A column or template with the reference completion, or the chosen one of a pair."""
    rejected: str | None = None
    """A column or template with a worse completion; `dpo` and `reward_model` learn from such pairs."""
    system: str | None = None
    """System message; needs `chat: true`."""
    chat: bool = False
    """Send the prompt as a user message through the tokenizer's chat template."""
    num_train: Positive | None = None
    """Rows of `train` to learn from; null: all that are left."""
    num_validation: Positive = 100
    """Rows taken from `train` where `validation` is null."""
    num_test: CountOrNone = 0
    """Rows taken from `train` where `test` is null; 0: the validation rows are reported on."""
    num_warmup: CountOrNone = 0
    """Rows for the warm start: taken from `train`, or the first of `warmup` (0: all of them)."""
    reward: RewardName | None = "math_answer"
    """Registry key, `classifier:FOLDER`, `package.module:function`, or `file.py:function`."""
    metric: Literal["accuracy", "reward"] = "reward"
    """accuracy: the reward is 0 or 1, and intervals are Wilson's."""
    seed: Seed = 0
    """Seed of the split."""


TaskConfig = Annotated[
    ArithmeticConfig
    | SummariesConfig
    | RowsConfig
    | Gsm8kConfig
    | DollyConfig
    | SelfInstructConfig
    | VicunaConfig
    | XsumConfig
    | HhConfig,
    Field(discriminator="name"),
]


class ScoringConfig(Section):
    """How the reward function is run: in worker processes that can be killed."""

    workers: Annotated[int, Field(ge=1), WORKERS] = 1
    """Worker processes."""
    chunk_size: Batch = 16
    """Completions of one call; more for a reward that is fast on many at once."""
    timeout_seconds: Annotated[float, Field(gt=0), WEEK] = 30.0
    """Limit of one call; a single completion that exceeds it scores `failure_score`."""
    failure_score: Goal = 0.0
    """Score of a completion whose reward hung or killed its process."""
    environment: list[Name] = []
    """Environment variables that the reward gets by name, such as the key of a service. Otherwise it gets
    those that say where things are (`PATH`, `HOME`, `HF_HOME`, `CUDA_...`), and no secrets."""
