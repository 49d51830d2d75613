"""`evolign check`: check a recipe before spending on it, offline where possible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evolign.commands.run import check_model, check_rows
from evolign.config import Config, EvolutionConfig
from evolign.errors import ConfigError, EvolignError, UnreachableError
from evolign.rewards.check import check_reward
from evolign.rewards.scoring import Scorer
from evolign.seeding import random_states_kept
from evolign.tasks import build_task
from evolign.tasks.base import Task, check_splits, examples
from evolign.tasks.leaks import leaks
from evolign.tracking import check_trackers

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel

UNKNOWN_PROMPT = 512
"""Assumed length of a prompt in tokens, if the data could not be read."""
READ_AT_ONCE = 4 * 2**30
"""Read at most so many bytes of weights; of a larger model, only names and shapes."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    status: str
    """ok, WARNING, SKIPPED (could not be checked here) or FAILED."""
    detail: str


@random_states_kept()
def check(config: Config) -> list[Finding]:
    """Check settings, data, reward, model, memory and prompts of `config`, in this order. Raises nothing."""
    findings = [Finding("settings", "ok", f"method {config.method}, seed {config.seed}")]
    if config.tracking.to:
        _try("tracking", lambda: _tracking(config), findings)
    task = _try("data", lambda: _data(config), findings)
    of_model: list[Finding] = []
    base = _try("model", lambda: _model(config, task), of_model)  # some rewards ask for its tokens
    if task is not None:
        findings += [Finding("data", "WARNING", sentence) for sentence in leaks(task)]
        _try("reward", lambda: _reward(config, task, base), findings)
    else:
        findings.append(Finding("reward", "SKIPPED", "it is checked on the data, which could not be read"))
    findings += of_model
    if base is not None and task is not None:
        from evolign.policy.inspection import doubts

        _try("prompt", lambda: _prompt(base, task), findings)
        findings += [Finding("prompt", "WARNING", it) for it in doubts(base.encoder, examples(task))]
        findings += _sampling(config)
    return findings


def _try(what: str, look: Callable[[], tuple[str, Any]], findings: list[Finding]) -> Any:
    """Add the finding of `look`, or the error that it raised. Return the object that it checked, or None."""
    try:
        detail, found = look()
    except UnreachableError as error:
        findings.append(Finding(what, "SKIPPED", str(error)))
    except EvolignError as error:
        findings.append(Finding(what, "FAILED", str(error)))
    else:
        findings.append(Finding(what, "ok", detail))
        return found
    return None


def _tracking(config: Config) -> tuple[str, None]:
    check_trackers(config.tracking.to)
    return f"{', '.join(config.tracking.to)}: installed; project {config.tracking.project}", None


def _data(config: Config) -> tuple[str, Task]:
    task = build_task(config.task)
    check_splits(task)
    check_rows(config, task)
    splits = ("warmup", "train", "validation", "test")
    counts = ", ".join(f"{len(getattr(task, split))} {split}" for split in splits)
    return f"task {config.task.name}: {counts} rows, disjoint", task


def _reward(config: Config, task: Task, base: "BaseModel | None") -> tuple[str, None]:
    encode = None if base is None else base.encoder.encode_freely
    with Scorer(task.reward, **config.scoring.model_dump()) as scorer:
        report = check_reward(task, scorer, encode=encode)
    if not report.ok:
        raise ConfigError("; ".join(report.problems))
    notes = "".join(f"; note: {note}" for note in report.notes)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in report.parts.items())
    each = f" ({parts})" if parts else ""
    return (
        f"{scorer.name}: gold completions score {report.gold:.2f}{each}, empty {report.empty:.2f}, shuffled "
        f"{report.shuffled:.2f}, random text {report.random:.2f} ({report.num_examples} rows){notes}",
        None,
    )


def _prompt(base: "BaseModel", task: Task) -> tuple[str, None]:
    """Show one prompt as the model sees it. Also encode all completions, because one may be refused."""
    from evolign.policy.inspection import as_shown

    for row in (*task.warmup, *task.train):
        for said in (row.completion, row.rejected):
            if said is not None:
                base.encoder.encode_completion(said)
    return as_shown(base.encoder, (*task.train, *examples(task))[0].prompt), None


def _sampling(config: Config) -> list[Finding]:
    """List the model's own settings of generation, since no run uses them."""
    from evolign.policy.base_model import generation_settings

    settings = ", ".join(generation_settings(config.model))
    detail = f"{settings} in generation_config.json are not used; `sampling` and `evaluation` say how to draw"
    return [Finding("sampling", "ok", detail)] if settings else []


def _model(config: Config, task: Task | None) -> tuple[str, "BaseModel"]:
    """Check shapes, and also weights that are on this machine and small enough to read."""
    from evolign.engines.transformers.memory import GIB, bytes_per_row, weight_bytes
    from evolign.policy.base_model import model_device
    from evolign.policy.quantization import estimated_weight_bytes, quantization_config

    base, seen = _base(config)
    model = base.model
    names = [row.id for row in examples(task)] if task else []
    base.prompts.add(examples(task) if task else [])
    base.prompts.check_room(names, config.sampling.max_new_tokens)
    longest = max((len(base.prompts[name]) for name in names), default=UNKNOWN_PROMPT)
    row = bytes_per_row(model, longest, config.sampling.max_new_tokens)
    weights, kind = weight_bytes(model), str(model.dtype)
    if config.model.quantization is not None:
        quantization_config(config.model, model.config, model_device(config.model.device), model.dtype)
        weights = estimated_weight_bytes(model, config.model)
        kind = f"{config.model.quantization} and {kind}"
    size = f"{model.num_parameters():,} parameters, {weights / GIB:.2f} GiB as {kind}"
    remark = check_model(config, base)
    return (
        f"{config.model.name}: {size}; {seen}{_trained(model, config)}{row / 2**20:.1f} MiB "
        f"of memory for each that is generated at once{f'. {remark}' if remark else ''}",
        base,
    )


def _base(config: Config) -> tuple[Any, str]:
    """The model, and how much of its weights was looked at.

    Those that are not on this machine are not fetched, and large ones are only looked up by their names: the
    model then lies on torch's meta device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from evolign.engines.transformers.memory import weight_bytes
    from evolign.policy.base_model import BaseModel, load_architecture, load_base_model, weights_are_here

    settings = config.model.model_copy(update={"quantization": None})
    architecture, tokenizer, dtype = load_architecture(settings)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                architecture, dtype=dtype, trust_remote_code=settings.trust_remote_code
            )
    except ValueError as error:
        raise ConfigError(f"model.name = {settings.name!r} is no causal language model: {error}") from error
    if weight_bytes(model) <= READ_AT_ONCE and weights_are_here(settings):
        return load_base_model(settings), "its weights are complete and finite; "
    if weights_are_here(settings):
        return load_base_model(settings, shapes_only=True), "its weights are complete; "
    model.generation_config.eos_token_id = architecture.get_text_config().eos_token_id
    return BaseModel(model, tokenizer, settings.name, prompting=settings), "its weights are not here yet; "


def _trained(model: Any, config: Config) -> str:
    """What is searched or trained, with its memory, and how many completions a generation takes."""
    from evolign.policy.policy import adapted_layers
    from evolign.policy.search_memory import search_memory

    if config.adapter is None:
        return "all weights are trained; "
    layers = adapted_layers(config, model)
    names = {name.rpartition(".")[2] for name in layers}
    told = f"adapter on {', '.join(sorted(names))}; "
    if not isinstance(config, EvolutionConfig):
        return told
    rows = config.evolution.prompts_per_generation * config.sampling.samples_per_prompt
    if config.fitness.name == "reward":
        rows *= config.strategy.population + 1
    return f"{told}{search_memory(config, layers.values())}; {rows:,} completions a generation, "
