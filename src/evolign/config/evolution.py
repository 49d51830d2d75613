"""The configuration of `method: evolution`: fitness, calibration, the loop, and how they fit together."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from evolign.config.inference import TOKENS_HELD, SamplingConfig
from evolign.config.needs import Needs
from evolign.config.policy import AdapterConfig, LoraSpaceConfig, SingularValuesConfig, check_alpha
from evolign.config.run import Config
from evolign.config.section import Above0, Batch, Goal, Minutes, Number, Positive, Section
from evolign.config.strategies import CmaEsConfig, StrategyConfig


class RewardFitnessConfig(Section):
    """ESSA's fitness: the mean reward of the candidate's own completions."""

    name: Literal["reward"] = "reward"
    measures_steps: ClassVar[bool] = False


class LikelihoodConfig(Section):
    """Fitness from one set of completions that all candidates read: advantage times likelihood ratio."""

    name: Literal["likelihood"] = "likelihood"
    measures_steps: ClassVar[bool] = True
    steps: Batch = 8
    """Strategy steps, each with fresh candidates, per batch of completions."""
    divergence: Above0 = 0.005
    """Mean divergence of the candidates from the mean policy, in nats per completion; sigma follows it."""
    clip: Above0 = 0.2
    """Likelihood ratios count as if they lay in 1 - clip to 1 + clip (PPO)."""
    ratio: Literal["sequence", "token"] = "sequence"
    """What has a ratio: the whole completion, or each of its tokens."""
    reads: Batch | None = None
    """Completions of a prompt that a pair of candidates reads, the best together with the worst, under
    evolution.prompt_sharing: per_candidate; null: all of them."""
    normalise: bool = False
    """Divide a prompt's advantages by their standard deviation (GRPO)."""


class CalibrationConfig(Section):
    """How `strategy.sigma: auto` is found, once, before the first generation."""

    change_rate: Annotated[float, Field(gt=0, lt=1), Number()] = 0.25
    """Share of completions that should differ from the mean policy's under the same noise; likelihood fitness
    calibrates to fitness.divergence instead."""
    prompts: Batch = 32
    """Training prompts to measure it on; under likelihood fitness, those of a generation at most."""
    candidates: Batch = 8
    """Random candidates to measure it on."""


class LoopConfig(Section):
    """The loop. It stops at whichever limit is reached first."""

    generations: Positive = 100
    """Generations at most."""
    prompts_per_generation: Batch = 64
    """Training prompts P per generation (paper: 100 to 500)."""
    prompt_sharing: Literal["shared", "per_candidate"] = "shared"
    """shared: all candidates see the same prompts; per_candidate: each draws its own, as the
    paper's Algorithm 1 reads literally. Under likelihood fitness every pair then reads one prompt."""
    max_completions: Positive | None = None
    """Stop after this number of completions of the search."""
    max_minutes: Minutes | None = None
    """Stop after this number of minutes of the search."""
    target: Goal | None = None
    """Stop when the validation metric reaches this."""


SpaceConfig = Annotated[SingularValuesConfig | LoraSpaceConfig, Field(discriminator="name")]
FitnessConfig = Annotated[RewardFitnessConfig | LikelihoodConfig, Field(discriminator="name")]


class EvolutionConfig(Config):
    """Evolution of a LoRA adapter: of its singular values, or of all of it."""

    method: Literal["evolution"] = "evolution"
    """How to align: see `evolign list`."""
    adapter: AdapterConfig = AdapterConfig()
    space: SpaceConfig = SingularValuesConfig()
    sampling: SamplingConfig = SamplingConfig()
    fitness: FitnessConfig = RewardFitnessConfig()
    strategy: StrategyConfig = CmaEsConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evolution: LoopConfig = LoopConfig()

    @property
    def needs(self) -> Needs:
        """See `Config.needs`."""
        size = self.evolution.prompts_per_generation
        return Needs("prompts", size, "evolution.prompts_per_generation")

    @model_validator(mode="after")
    def _something_can_move(self) -> "EvolutionConfig":
        if self.space.name == "singular_values":
            check_alpha(self.space, self.adapter)
        return self

    @model_validator(mode="after")
    def _a_generation_fits_into_memory(self) -> "EvolutionConfig":
        rows = self.evolution.prompts_per_generation * self.sampling.samples_per_prompt
        rows *= self.strategy.population + 1 if self.fitness.name == "reward" else 1
        tokens = rows * self.sampling.max_new_tokens
        if tokens > TOKENS_HELD:
            raise ValueError(
                f"a generation is {rows:,} completions (candidates * evolution.prompts_per_generation * "
                f"sampling.samples_per_prompt) of up to {self.sampling.max_new_tokens:,} tokens; all are "
                f"held until they are scored, so they must be at most {TOKENS_HELD:,} tokens: lower one"
            )
        return self

    @model_validator(mode="after")
    def _subspaces_need_a_strategy_for_them(self) -> "EvolutionConfig":
        if self.space.in_subspaces and not self.strategy.follows_subspaces:
            raise ValueError(
                f"strategy.name = {self.strategy.name!r} searches one space throughout, but "
                f"space.name = {self.space.name!r} is searched in another subspace at every step; use "
                "openai_es, or space.name = singular_values"
            )
        return self

    @model_validator(mode="after")
    def _a_trust_region_has_a_divergence(self) -> "EvolutionConfig":
        if self.strategy.measures_steps and not self.fitness.measures_steps:
            raise ValueError(
                f"strategy.optimizer = 'trust_region' sizes steps by likelihoods, which fitness.name = "
                f"{self.fitness.name!r} does not read; use adam, or fitness.name = likelihood"
            )
        return self

    @model_validator(mode="after")
    def _likelihood_has_something_to_compare(self) -> "EvolutionConfig":
        if not isinstance(self.fitness, LikelihoodConfig):
            return self
        if not self.engine.abilities.reads:
            raise ValueError(
                f"fitness.name = 'likelihood' reads completions, which engine.name = {self.engine.name!r} "
                "cannot; use fitness.name = reward, or engine.name = transformers"
            )
        if self.strategy.compares_generations:
            raise ValueError(
                f"strategy.name = {self.strategy.name!r} compares fitness across generations, but "
                "fitness.name = likelihood is relative to the mean of each generation; use openai_es, snes "
                "or cma_es"
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
        samples = self.sampling.samples_per_prompt
        parts = -(-samples // (self.fitness.reads or samples)) * self.evolution.prompts_per_generation
        if self.evolution.prompt_sharing == "per_candidate" and self.strategy.population < 2 * parts:
            raise ValueError(
                f"strategy.population = {self.strategy.population}: under fitness.name = likelihood and "
                "evolution.prompt_sharing = per_candidate a pair of candidates reads one prompt, or "
                "fitness.reads of its completions, so there must be two candidates for each; use "
                f"{2 * parts} or more, or evolution.prompt_sharing = shared"
            )
        return self
