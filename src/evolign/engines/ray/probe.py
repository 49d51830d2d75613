"""A question whose answer is known: before a worker counts, it shows that it holds the same policy."""

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import evolign
from evolign.engines.base import Engine
from evolign.policy.fingerprint import model_fingerprint
from evolign.policy.policy import Policy
from evolign.seeding import stream
from evolign.types import Example, Population, Sampling

EXAMPLE = Example("evolign probe", "1+2=")
NEW_TOKENS, SIGMA = 8, 0.05
CLOSE = 1e-3
"""Relative difference that log-probabilities may have."""
LESS_LIKELY = 0.5
"""Nats per token that greedy completions may lose to rounding, of those of an engine that is not exact."""
PACKAGES = ("torch", "transformers", "peft", "numpy")


@dataclass(frozen=True)
class Answer:
    """What a worker says of itself."""

    versions: dict[str, str]
    code: str
    """A hash of evolign's source files."""
    device: str
    weights: str
    """The base model's fingerprint."""
    space: str
    """A hash of a step of the search space."""
    token_ids: list[tuple[int, ...]]
    """What two candidates and the mean write, greedily."""
    logprobs: list[list[float]]
    """How likely each of them finds it."""


def ask(policy: Policy, engine: Engine) -> Answer:
    """What `engine` over `policy` answers to the probe. The engine learns one more prompt by it."""
    space = policy.space
    dim, subspace = (space.dim, None) if space.subspace_dim is None else (space.subspace_dim, 1)
    theta_NK = SIGMA * stream(0, "probe").standard_normal((2, dim))
    population = Population(theta_NK, subspace, with_mean=True)
    engine.add_prompts([EXAMPLE])
    names = [EXAMPLE.id] * 3
    rollouts = engine.generate(population, [[name] for name in names], Sampling(NEW_TOKENS, temperature=0.0))
    token_ids = list(rollouts.token_ids_NPS.flat)
    step_D = space.lift(np.zeros(space.dim), subspace, theta_NK[0])
    found = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return Answer(
        versions=found,
        code=_code(),
        device=policy.base.model.device.type,
        weights=model_fingerprint(policy.base.model),
        space=hashlib.blake2b(step_D.tobytes(), digest_size=8).hexdigest(),
        token_ids=token_ids,
        logprobs=engine.logprobs(population, range(3), names, token_ids).tolist()
        if engine.abilities.reads
        else [],
    )


def differences(wanted: Answer, given: Answer, *, exact: bool = True) -> Iterator[str]:
    """In what `given` is not the answer that was wanted, as parts of a sentence.

    Weights and completions are compared between devices of one kind only: another kind may hold the same
    weights in another precision. Where engines are not exact, completions may differ, but not be less likely.
    """
    for name, ours in wanted.versions.items():
        if given.versions.get(name) != ours:
            yield f"{name} {given.versions.get(name)} there, {ours} here"
    if given.code != wanted.code:
        yield "another version of evolign's code"
    if given.space != wanted.space:
        yield "another search space or starting adapter"
    if given.device != wanted.device:
        return
    if given.weights != wanted.weights:
        yield "other weights of the base model"
    if not exact:
        if (short := _per_token(wanted) - _per_token(given)) > LESS_LIKELY:
            yield f"completions of the probe that are {short:.2f} nats per token less likely than those here"
        return
    if given.token_ids != wanted.token_ids:
        yield f"other completions of the probe ({given.token_ids} there, {wanted.token_ids} here)"
    elif not all(
        np.allclose(a, b, rtol=CLOSE, atol=CLOSE)
        for a, b in zip(given.logprobs, wanted.logprobs, strict=True)
    ):
        yield "other log-probabilities of the probe"


def _per_token(answer: Answer) -> float:
    """Mean log-probability of a token of the completions."""
    return sum(map(sum, answer.logprobs)) / sum(map(len, answer.token_ids))


def _code() -> str:
    """The same wherever the same files are installed."""
    folder = Path(evolign.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
