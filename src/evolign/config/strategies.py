"""Evolution strategies."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from evolign.config.section import Above0, Auto, Held, Number, Section


class Traits(Section):
    """What a strategy supports and needs; checked against the space and the fitness."""

    follows_subspaces: ClassVar[bool] = False
    """It can search a space in another subspace at every step."""
    compares_generations: ClassVar[bool] = False
    """It compares the fitness of one generation with that of another."""

    @property
    def measures_steps(self) -> bool:
        """It asks how far a step moves the policy."""
        return False


class CmaEsConfig(Traits):
    """CMA-ES (Hansen and Ostermeier 2001) by pycma."""

    name: Literal["cma_es"] = "cma_es"
    population: Annotated[int, Field(ge=3), Held] = 24
    """Candidates per generation."""
    sigma: Above0 | Auto = "auto"
    """Initial step size in units of theta; auto: see `calibration`."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """full is the paper's; it learned no more within a run and costs O(D^2) memory."""
    active: bool = True
    """Negative weights for the worst candidates (Jastrebski and Arnold 2006)."""


class SnesConfig(Traits):
    """Separable natural evolution strategy (Schaul, Glasmachers and Schmidhuber 2011)."""

    name: Literal["snes"] = "snes"
    population: Annotated[int, Field(ge=2), Held] = 24
    """Candidates per generation."""
    sigma: Above0 | Auto = "auto"
    """Initial step size in units of theta; auto: see `calibration`."""
    learning_rate_mean: Above0 = 1.0
    """Step along the natural gradient of the mean."""
    learning_rate_sigma: Above0 | None = None
    """Step along the natural gradient of the step sizes; null: (3 + ln D) / (5 sqrt(D))."""


class OpenAiEsConfig(Traits):
    """NES with isotropic noise: the mean-subtracted estimate of the ESO paper, equations 5 to 7."""

    name: Literal["openai_es"] = "openai_es"
    follows_subspaces: ClassVar[bool] = True
    population: Annotated[int, Field(ge=2), Held] = 24
    """Candidates per generation; even when antithetic."""
    sigma: Above0 | Auto = "auto"
    """Standard deviation of the perturbations; auto: see `calibration`."""
    learning_rate: Above0 = 0.5
    """Step of sgd and adam, in units of sigma."""
    antithetic: bool = True
    """Candidates come in pairs +eps, -eps."""
    orthogonal: bool = False
    """Perturbations of one generation are orthogonal; needs no more candidates than dimensions."""
    shaping: Literal["mean", "z_score", "centred_rank"] = "z_score"
    """How fitness becomes the weights of the perturbations."""
    optimizer: Literal["sgd", "adam", "trust_region"] = "adam"
    """The optimiser that follows the gradient estimate; trust_region needs likelihood fitness."""
    trust_region: Above0 = 0.0025
    """Nats per completion by which a step of the optimizer trust_region may move the policy."""
    beta1: Annotated[float, Field(ge=0, lt=1), Number()] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1), Number()] = 0.999
    """Decay of the second moment."""

    @property
    def measures_steps(self) -> bool:
        """See `Traits.measures_steps`."""
        return self.optimizer == "trust_region"

    @model_validator(mode="after")
    def _pairs_need_an_even_population(self) -> "OpenAiEsConfig":
        if self.antithetic and self.population % 2:
            raise ValueError(
                f"strategy.population = {self.population} must be even because sampling is "
                f"antithetic; use {self.population - 1} or {self.population + 1}, or set "
                "strategy.antithetic = false"
            )
        return self


class RandomSearchConfig(Traits):
    """Random search around the warm start: the baseline that every strategy must beat."""

    name: Literal["random_search"] = "random_search"
    compares_generations: ClassVar[bool] = True
    population: Annotated[int, Field(ge=2), Held] = 24
    """Candidates per generation."""
    sigma: Above0 | Auto = "auto"
    """Standard deviation of the candidates; auto: see `calibration`."""


StrategyConfig = Annotated[
    CmaEsConfig | SnesConfig | OpenAiEsConfig | RandomSearchConfig, Field(discriminator="name")
]
