"""From the arguments of an `EvolutionTrainer` to the sections of a recipe."""

import math
from collections.abc import Mapping
from typing import Any

from evolign.errors import ConfigError, shown
from evolign.trl.config import EvolutionConfig

PEFT_MEANS = {"r", "lora_alpha", "target_modules"}
PEFT_WITHOUT_EFFECT = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout"),
}
"""Fields of LoraConfig that change no result: a dropout is of training by gradients."""
TRUST_REGION = {
    "orthogonal": True,
    "shaping": "mean",
    "optimizer": "trust_region",
    "beta1": 0.0,
    "beta2": 0.99,
}
"""The strategy openai_es as in recipes/quickstart.yaml."""

Tree = dict[str, Any]


def sections(args: EvolutionConfig, peft_config: Any, num_rows: int, validated: bool) -> Tree:
    """The arguments of `evolign.evolve` beside model, rows, reward and `out`; `num_rows` are those to learn.

    The model is not among them, since it is loaded already. `validated` says that there is a data set for
    evaluation. Raises ConfigError.
    """
    held_out = 0 if validated else args.num_validation or max(1, min(100, num_rows // 10))
    prompts = max(1, min(args.prompts_per_generation, num_rows - held_out))
    per_epoch = math.ceil((num_rows - held_out) / prompts)
    generations = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    likelihood = args.fitness == "likelihood"
    strategy = _strategy(args, prompts)
    parted = likelihood and strategy["population"] >= 2 * prompts  # a pair of candidates for each prompt
    tree: Tree = {
        "seed": args.seed,
        "adapter": adapter_section(args, peft_config),
        "task": {"prompt": "prompt", "metric": args.metric, "seed": args.data_seed or 0},
        "sampling": {
            "max_new_tokens": args.max_completion_length,
            "temperature": args.temperature,
            "samples_per_prompt": args.num_generations,
        },
        "fitness": {"name": args.fitness} | (_likelihood(args) if likelihood else {}),
        "space": {"name": args.space or ("lora" if likelihood else "singular_values")},
        "strategy": strategy,
        "evolution": {
            "generations": generations,
            "prompts_per_generation": prompts,
            "prompt_sharing": "per_candidate" if parted else "shared",
        },
        "evaluation": _evaluation(args, generations, per_epoch),
    }
    if not validated:
        tree["task"]["num_validation"] = held_out
    return merged(tree, {name: value for name, value in (args.recipe or {}).items() if name != "model"})


def prompting_section(args: EvolutionConfig) -> Tree:
    """How the model is prompted."""
    section: Tree = {"chat_template_kwargs": dict(args.chat_template_kwargs or {})}
    above = (args.recipe or {}).get("model", {})
    return merged(section, {name: above[name] for name in (*section, "system_prompt") if name in above})


def merged(tree: Tree, above: Mapping[str, Any]) -> Tree:
    """`above` on top of `tree`, section by section."""
    both = dict(tree)
    for name, value in above.items():
        below = both.get(name)
        both[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return both


def model_section(args: EvolutionConfig, name: str) -> Tree:
    """What is said of a model that is loaded here."""
    given = dict(args.model_init_kwargs or {})
    dtype = given.pop("dtype", given.pop("torch_dtype", None))
    section = {name: given.pop(name) for name in ("revision", "trust_remote_code") if name in given}
    if given:
        raise ConfigError(
            f"model_init_kwargs: {', '.join(sorted(given))}: of these arguments, evolution takes dtype, "
            "revision and trust_remote_code; load the model yourself and pass it as model="
        )
    if dtype is None:
        dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "auto"
    section = {
        "trust_remote_code": args.trust_remote_code,
        "dtype": str(dtype).removeprefix("torch."),
    } | section
    section |= {"name": name} | ({"device": "cpu"} if args.use_cpu else {})
    return merged(section, (args.recipe or {}).get("model", {}))


def adapter_section(args: EvolutionConfig, peft_config: Any) -> Tree:
    """The adapter that `peft_config`, a LoraConfig or None, asks for."""
    section: Tree = {"warm_start": None}
    if args.adapter is not None:
        return section | {"path": args.adapter}
    if peft_config is None:
        return section
    from peft import LoraConfig

    given, defaults = peft_config.to_dict(), LoraConfig().to_dict()
    wrong = {
        name: value
        for name, value in given.items()
        if value != defaults.get(name) and name not in PEFT_MEANS | PEFT_WITHOUT_EFFECT
    }
    if wrong or not isinstance(peft_config, LoraConfig):
        told = ", ".join(f"{name} = {shown(value)}" for name, value in wrong.items())
        raise ConfigError(
            f"peft_config is a {type(peft_config).__name__} with {told or 'its defaults'}: evolution moves "
            "the factors of a plain LoRA adapter, of which it takes r, lora_alpha and target_modules; leave "
            "out the rest"
        )
    section |= {"rank": given["r"], "lora_alpha": given["lora_alpha"]}
    modules = given["target_modules"]
    if modules is not None:
        section["target_modules"] = modules if isinstance(modules, str) else sorted(modules)
    return section


def _likelihood(args: EvolutionConfig) -> Tree:
    scales = {"group": True, True: True, "none": False, False: False}
    if args.scale_rewards not in scales:
        raise ConfigError(
            f"scale_rewards = {shown(args.scale_rewards)}: must be group or none under fitness = likelihood"
        )
    return {
        "clip": args.epsilon,
        "ratio": args.importance_sampling_level,
        "normalise": scales[args.scale_rewards],
    }


def _strategy(args: EvolutionConfig, prompts: int) -> Tree:
    likelihood = args.fitness == "likelihood"
    name = args.strategy or ("openai_es" if likelihood else "cma_es")
    population = args.population or (max(192, 2 * prompts) if likelihood else 24)
    sizes = TRUST_REGION if likelihood and name == "openai_es" else {}
    return {"name": name, "population": population, "sigma": args.sigma or "auto"} | sizes


def _evaluation(args: EvolutionConfig, generations: int, per_epoch: int) -> Tree:
    section: Tree = {}
    if args.num_generations_eval:
        section["samples"] = args.num_generations_eval
    if args.eval_strategy == "steps":
        steps = args.eval_steps
        section["every"] = math.ceil(generations * steps) if steps < 1 else int(steps)
    elif args.eval_strategy == "epoch":
        section["every"] = per_epoch
    best = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if best != "loss":  # transformers' default, which means none here
        names = {args.metric: "greedy", **{f"{args.metric}_{name}": name for name in ("greedy", "sampled")}}
        if best not in names:
            raise ConfigError(
                f"metric_for_best_model = {args.metric_for_best_model!r}: must be one of {', '.join(names)}"
            )
        section["select_by"] = names[best]
    if args.greater_is_better is False and best != "loss":
        raise ConfigError(
            "greater_is_better = False: the result is selected by its highest reward; negate it"
        )
    return section
