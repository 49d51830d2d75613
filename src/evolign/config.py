"""The whole configuration as one typed tree. A recipe is a YAML file of these fields.

Nothing here imports torch: a recipe is checked in milliseconds. Files are read and written by `recipe.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]

INSTRUCTION = "Please reason step by step and place your final answer in \\boxed{}."


class Section(BaseModel):
    """What all sections have in common: frozen, no unknown keys, a docstring under every field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The base model. Its weights never change."""

    name: str = "embedded:arithmetic"
    """Hub name, local folder, or `embedded:<name>` for a model that ships with evolign."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null is the newest."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, bfloat16 on a GPU."""
    device: str = "auto"
    """auto: the first GPU if there is one, else the CPU. Or `cpu`, `cuda:1`, `mps`."""
    trust_remote_code: bool = False
    """Run model code that comes with a hub model. Off: such models are refused."""


class WarmStartConfig(Section):
    """Supervised fine-tuning of the adapter on the task's solved rows, before evolution (TRL)."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the warm-up rows."""
    max_steps: Positive | None = None
    """Optimiser steps; overrides `epochs` when set."""
    batch_size: Positive = 16
    """Rows per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Learning-rate schedule."""
    max_length: Positive = 1024
    """Tokens of prompt and completion; longer rows are cut."""


class AdapterConfig(Section):
    """The LoRA adapter inside which evolution searches."""

    rank: Positive = 8
    """Rank R of every adapted matrix."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """LoRA scaling is lora_alpha / rank; null: lora_alpha = 2 * rank."""
    target_modules: Literal["attention", "all-linear"] | list[str] = "attention"
    """attention: the query, key, value and output projections (the paper); all-linear: every linear
    layer but the output head; or a list of module names as in PEFT."""
    path: str | None = None
    """An existing PEFT LoRA adapter to start from; rank and modules are then read from it."""
    warm_start: WarmStartConfig | None = WarmStartConfig()
    """Supervised fine-tuning before evolution; null: none. Ignored when `path` is given."""


class SingularValuesConfig(Section):
    """Search space of ESSA: additive offsets on the singular values of both LoRA factors."""

    name: Literal["singular_values"] = "singular_values"
    alpha: Share = 1.0
    """Share of singular values per factor, largest first, that may move: floor(alpha * rank)."""


class ArithmeticConfig(Section):
    """Generated arithmetic problems: the task of the embedded model."""

    name: Literal["arithmetic"] = "arithmetic"
    num_train: Positive = 2000
    """Prompts that evolution draws from."""
    num_validation: Positive = 200
    """Prompts that select the exported policy."""
    num_test: Positive = 500
    """Prompts that the result is reported on; used for nothing else."""
    num_warmup: Positive = 48
    """Solved rows for the warm start."""
    operations: list[str] | None = None
    """Kinds of problem; null: all of them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the problems, apart from the run's seed, so that runs share their data."""


class Gsm8kConfig(Section):
    """GSM8K (Cobbe et al. 2021), graded by the number in the box."""

    name: Literal["gsm8k"] = "gsm8k"
    train: str = "openai/gsm8k"
    """Hub name, or a local JSONL file with `question` and `answer`."""
    test: str = "openai/gsm8k"
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
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split."""


class RowsConfig(Section):
    """Your own rows: JSONL, JSON, CSV, Parquet or a hub data set."""

    name: Literal["rows"] = "rows"
    train: str
    """File or hub data set that evolution draws from."""
    validation: str | None = None
    """File or hub data set that selects the exported policy; null: taken from `train`."""
    test: str | None = None
    """File or hub data set to report on; null: the validation rows are reported on."""
    prompt: str = "prompt"
    """A column, or a template over columns such as `"Question: {question}\\nAnswer:"`."""
    completion: str | None = None
    """A column or template with the reference completion; the warm start is trained on it."""
    system: str | None = None
    """System message; needs `chat: true`."""
    chat: bool = False
    """Send the prompt as a user message through the tokenizer's chat template."""
    num_validation: Positive = 100
    """Rows taken from `train` where `validation` is null."""
    num_warmup: Annotated[int, Field(ge=0)] = 0
    """Rows taken from `train` for the warm start."""
    reward: str = "math_answer"
    """Registry key, `package.module:function`, or `file.py:function`; TRL's signature."""
    metric: Literal["accuracy", "reward"] = "reward"
    """accuracy: the reward is 0 or 1, and intervals are Wilson's."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split."""


class RewardConfig(Section):
    """How the reward function is run: in worker processes that can be killed."""

    workers: Positive = 1
    """Worker processes."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Limit of one call; a completion that exceeds it alone scores `failure_score`."""
    failure_score: float = 0.0
    """Score of a completion whose reward hung or killed its process."""


class SamplingConfig(Section):
    """How completions are drawn during evolution."""

    max_new_tokens: Positive = 128
    """Tokens of a completion at most."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 decodes greedily."""
    samples_per_prompt: Positive = 1
    """Completions per prompt and candidate; fitness is their mean."""


class TransformersConfig(Section):
    """Inference by transformers in this process."""

    name: Literal["transformers"] = "transformers"
    micro_batch_size: Positive | Auto = "auto"
    """Rows generated at once; auto: as many as `memory_gb` holds."""
    memory_gb: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Memory for key/value cache and logits; auto: half of what the device has in all, after the
    model (at most 4 GB on a CPU)."""
    threads: Positive | Auto = "auto"
    """CPU threads; auto: 1 for models under 50M parameters (more make them slower), else all
    cores."""


class CmaEsConfig(Section):
    """CMA-ES (Hansen and Ostermeier 2001) by pycma."""

    name: Literal["cma_es"] = "cma_es"
    population: Annotated[int, Field(ge=3)] = 24
    """Candidates per generation."""
    sigma: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Initial step size in units of singular values; auto: see `calibration`."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """full is the paper's; it learns no more within a run's length and costs O(D^2) memory."""
    active: bool = True
    """Negative weights for the worst candidates (Jastrebski and Arnold 2006)."""


class SnesConfig(Section):
    """Separable natural evolution strategy (Schaul, Glasmachers and Schmidhuber 2011)."""

    name: Literal["snes"] = "snes"
    population: Annotated[int, Field(ge=2)] = 24
    """Candidates per generation."""
    sigma: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Initial step size in units of singular values; auto: see `calibration`."""
    learning_rate_mean: Annotated[float, Field(gt=0)] = 1.0
    """Step along the natural gradient of the mean."""
    learning_rate_sigma: Annotated[float, Field(gt=0)] | None = None
    """Step along the natural gradient of the step sizes; null: (3 + ln D) / (5 sqrt(D))."""


class OpenAiEsConfig(Section):
    """NES with isotropic noise: the mean-subtracted estimate of the ESO paper, equations 5 to 7."""

    name: Literal["openai_es"] = "openai_es"
    population: Annotated[int, Field(ge=2)] = 24
    """Candidates per generation; even when antithetic."""
    sigma: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Standard deviation of the perturbations; auto: see `calibration`."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.5
    """Step of the optimiser, in units of sigma."""
    antithetic: bool = True
    """Candidates come in pairs +eps, -eps."""
    orthogonal: bool = False
    """Perturbations of one generation are orthogonal; needs no more candidates than dimensions."""
    shaping: Literal["mean", "z_score", "centred_rank"] = "z_score"
    """What becomes of the fitness before it weighs the perturbations."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """What follows the gradient estimate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's decay of the second moment."""

    @model_validator(mode="after")
    def _pairs_need_an_even_population(self) -> "OpenAiEsConfig":
        if self.antithetic and self.population % 2:
            raise ValueError(
                f"strategy.population = {self.population} must be even because sampling is "
                f"antithetic; use {self.population - 1} or {self.population + 1}, or set "
                "strategy.antithetic = false"
            )
        return self


class RandomSearchConfig(Section):
    """Random search around the warm start: the baseline that every strategy must beat."""

    name: Literal["random_search"] = "random_search"
    population: Annotated[int, Field(ge=2)] = 24
    """Candidates per generation."""
    sigma: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Standard deviation of the candidates; auto: see `calibration`."""


class RewardFitnessConfig(Section):
    """ESSA's fitness: the mean reward of the candidate's own completions."""

    name: Literal["reward"] = "reward"


class LikelihoodConfig(Section):
    """Fitness from one set of completions that all candidates read: advantage times likelihood ratio."""

    name: Literal["likelihood"] = "likelihood"
    divergence: Annotated[float, Field(gt=0)] = 0.02
    """Trust region: mean divergence of the candidates from the sampling policy, in nats per completion;
    the step size follows it."""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """Likelihood ratios count as if they lay in 1 - clip to 1 + clip (PPO)."""
    ratio: Literal["sequence", "token"] = "sequence"
    """What has a ratio: the whole completion, or each of its tokens."""
    normalise: bool = False
    """Divide a prompt's advantages by their standard deviation (GRPO)."""


class CalibrationConfig(Section):
    """How `strategy.sigma: auto` is found, once, before the first generation."""

    change_rate: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of completions that shall differ from the mean policy's under the same noise."""
    prompts: Positive = 32
    """Training prompts to measure it on."""
    candidates: Positive = 8
    """Random candidates to measure it on."""


class EvolutionConfig(Section):
    """The loop. It stops at whichever limit is reached first."""

    generations: Positive = 100
    """Generations at most."""
    prompts_per_generation: Positive = 64
    """Training prompts P per generation (paper: 100 to 500)."""
    prompt_sharing: Literal["shared", "per_candidate"] = "shared"
    """shared: all candidates see the same prompts; per_candidate: each draws its own, as the
    paper's Algorithm 1 reads literally."""
    max_completions: Positive | None = None
    """Stop after so many completions of the search."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after so many minutes of the search."""
    target: float | None = None
    """Stop when the validation metric reaches this."""


class EvaluationConfig(Section):
    """How the mean policy is judged: on validation prompts during the run, on test prompts after."""

    every: Positive = 10
    """Generations between validations."""
    decoding: Annotated[list[Literal["greedy", "sampled"]], Field(min_length=1)] = ["greedy", "sampled"]
    """Ways to decode; sampled is at temperature 1."""
    select_by: Literal["greedy", "sampled"] = "greedy"
    """Which of them selects the exported policy and is held against `evolution.target`; ties are
    decided by the other."""
    num_samples_kept: Annotated[int, Field(ge=0)] = 8
    """Completions written to samples.jsonl per evaluation."""

    @model_validator(mode="after")
    def _selection_is_measured(self) -> "EvaluationConfig":
        if self.select_by not in self.decoding:
            raise ValueError(
                f"evaluation.select_by = {self.select_by!r} is not measured; add it to "
                f"evaluation.decoding = {self.decoding} or select by {self.decoding[0]!r}"
            )
        return self


TaskConfig = Annotated[ArithmeticConfig | Gsm8kConfig | RowsConfig, Field(discriminator="name")]
FitnessConfig = Annotated[RewardFitnessConfig | LikelihoodConfig, Field(discriminator="name")]
StrategyConfig = Annotated[
    CmaEsConfig | SnesConfig | OpenAiEsConfig | RandomSearchConfig, Field(discriminator="name")
]


class Config(Section):
    """Everything that a run depends on."""

    method: Literal["essa"] = "essa"
    """How to align: see `evolign list`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random in the run except the data split."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    space: SingularValuesConfig = SingularValuesConfig()
    task: TaskConfig = ArithmeticConfig()
    reward: RewardConfig = RewardConfig()
    sampling: SamplingConfig = SamplingConfig()
    engine: TransformersConfig = TransformersConfig()
    fitness: FitnessConfig = RewardFitnessConfig()
    strategy: StrategyConfig = CmaEsConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _something_can_move(self) -> "Config":
        alpha, rank = self.space.alpha, self.adapter.rank
        if self.adapter.path is None and int(alpha * rank + 1e-9) == 0:
            raise ValueError(
                f"space.alpha = {alpha} leaves none of adapter.rank = {rank} singular values to move, since "
                f"floor(alpha * rank) = 0; use at least {1 / rank:.3g}"
            )
        return self

    @model_validator(mode="after")
    def _likelihood_has_something_to_compare(self) -> "Config":
        if self.fitness.name != "likelihood":
            return self
        if self.strategy.name == "random_search":
            raise ValueError(
                "strategy.name = 'random_search' compares fitness across generations, but fitness.name = "
                "likelihood is relative to each generation's mean; use openai_es, snes or cma_es"
            )
        if self.sampling.samples_per_prompt < 2:
            raise ValueError(
                f"sampling.samples_per_prompt = {self.sampling.samples_per_prompt}: fitness.name = "
                "likelihood weighs a prompt's samples against each other; use 2 or more, for example 8"
            )
        if self.sampling.temperature == 0:
            raise ValueError(
                "sampling.temperature = 0: fitness.name = likelihood needs completions that were sampled; "
                "use a temperature above 0, for example 1"
            )
        if self.evolution.prompt_sharing != "shared":
            raise ValueError(
                "evolution.prompt_sharing = 'per_candidate': under fitness.name = likelihood all candidates "
                "read the same completions; leave it at shared"
            )
        return self
