"""The arguments of GRPOTrainer and GRPOConfig: none is forgotten, and none is silently ignored."""

import dataclasses
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest
import trl
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, TrlParser

from evolign.config.recipe import parse
from evolign.errors import ConfigError
from evolign.trl import EvolutionConfig, EvolutionTrainer
from evolign.trl.arguments import MEANS, REFUSED, WITHOUT_EFFECT, reasons
from evolign.trl.sections import model_section, sections

ROOT = Path(__file__).parents[2]
TABLES = [MEANS, reasons(WITHOUT_EFFECT), reasons(REFUSED)]
FIELDS = {field.name for field in dataclasses.fields(GRPOConfig)}
ARGUMENTS = FIELDS | {*inspect.signature(GRPOTrainer.__init__).parameters} - {"self"}
PINNED = "trl==" + trl.__version__ in (ROOT / "constraints.txt").read_text().splitlines()


def made(**arguments: Any) -> EvolutionConfig:
    return EvolutionConfig(output_dir="out", **arguments)


def tree(args: EvolutionConfig, peft_config: Any = None, rows: int = 200, validated: bool = False) -> Any:
    """The sections that the arguments become; they are a valid configuration."""
    found = sections(args, peft_config, rows, validated)
    parse(found | {"task": found["task"] | {"name": "rows"}})
    return found


@pytest.mark.skipif(not PINNED, reason="the tables are of the TRL that constraints.txt pins")
def test_every_argument_of_trl_is_in_one_table() -> None:
    names = [name for table in TABLES for name in table]
    assert len(names) == len({*names})
    assert {*names} == ARGUMENTS


def test_the_page_shows_the_tables() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["from_grpo"]()
    assert (ROOT / "docs" / "from_grpo.md").read_text() == generated, "run `make docs`"


@pytest.mark.parametrize("name", sorted(FIELDS & reasons(REFUSED).keys()))
def test_a_refused_argument_is_refused_with_its_reason_and_accepted_at_its_default(name: str) -> None:
    [field] = [field for field in dataclasses.fields(GRPOConfig) if field.name == name]
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    other: Any = (not default) if isinstance(default, bool) else 0.0625
    with pytest.raises(ConfigError, match=rf"(?m)^  {name} = .*: .{{10}}"):
        made(**{name: other})
    made(**{name: default})


def test_one_error_names_every_refused_argument() -> None:
    with pytest.raises(ConfigError, match=r"(?s)learning_rate = 0.1: there is no gr.*beta = 0.04: there"):
        made(learning_rate=0.1, beta=0.04, top_k=0)


def test_arguments_without_effect_change_no_configuration() -> None:
    given = made(
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        per_device_eval_batch_size=4,
        dataloader_num_workers=2,
        ddp_find_unused_parameters=False,
        save_total_limit=3,
        load_best_model_at_end=True,
        log_completions=True,
        disable_tqdm=True,
        do_train=True,
    )
    assert tree(given) == tree(made()) == tree(dataclasses.replace(given))


def test_arguments_become_the_sections_of_a_recipe() -> None:
    found = tree(
        made(
            num_generations=4,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=3,
            max_completion_length=33,
            temperature=0.7,
            num_train_epochs=2,
            seed=5,
            data_seed=6,
            scale_rewards=True,
            epsilon=0.1,
            eval_strategy="steps",
            eval_steps=7,
            metric_for_best_model="eval_reward_sampled",
            sigma=0.5,
            recipe={"adapter": {"rank": 3}, "scoring": {"workers": 2}},
        )
    )
    assert found["sampling"] == {"max_new_tokens": 33, "temperature": 0.7, "samples_per_prompt": 4}
    # 200 rows, of which 20 are held out: 30 generations of 6 prompts are an epoch.
    assert found["evolution"]["prompts_per_generation"] == 6
    assert found["evolution"]["generations"] == 60
    assert found["task"]["num_validation"] == 20
    assert (found["seed"], found["task"]["seed"]) == (5, 6)
    assert found["fitness"] == {"name": "likelihood", "clip": 0.1, "ratio": "sequence", "normalise": True}
    assert found["evaluation"] == {"every": 7, "select_by": "sampled"}
    assert found["strategy"]["sigma"] == 0.5
    assert found["adapter"] == {"warm_start": None, "rank": 3}
    assert found["scoring"] == {"workers": 2}


def test_the_fitness_decides_what_is_not_said() -> None:
    essa = tree(made(fitness="reward", num_generations=1, max_steps=3), rows=40)
    assert (essa["space"]["name"], essa["strategy"]["name"]) == ("singular_values", "cma_es")
    assert essa["evolution"] == {
        "generations": 3,
        "prompts_per_generation": 36,
        "prompt_sharing": "shared",
    }
    likelihood = tree(made(), rows=2000, validated=True)
    assert (likelihood["space"]["name"], likelihood["strategy"]["population"]) == ("lora", 192)
    assert likelihood["evolution"]["prompts_per_generation"] == 64
    assert likelihood["evolution"]["prompt_sharing"] == "per_candidate"
    assert tree(made(population=8))["evolution"]["prompt_sharing"] == "shared"
    assert "num_validation" not in likelihood["task"]


@pytest.mark.parametrize(
    ("given", "section"),
    [
        ({"r": 4, "lora_alpha": 6}, {"rank": 4, "lora_alpha": 6}),
        ({"target_modules": "all-linear", "lora_dropout": 0.1}, {"target_modules": "all-linear"}),
        ({"target_modules": ["v_proj", "k_proj"]}, {"target_modules": ["k_proj", "v_proj"]}),
    ],
)
def test_a_lora_config_becomes_the_adapter(given: dict[str, Any], section: dict[str, Any]) -> None:
    assert section.items() <= tree(made(), LoraConfig(task_type="CAUSAL_LM", **given))["adapter"].items()


@pytest.mark.parametrize("given", [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"}])
def test_an_adapter_that_is_no_plain_lora_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"peft_config is a LoraConfig with {next(iter(given))} = "):
        tree(made(), LoraConfig(**given))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_generations": 3, "generation_batch_size": 8}, "8 completions .* divisible by num_generations"),
        ({"num_generations": 0}, "num_generations = 0 must be at least 1"),
    ],
)
def test_a_generation_is_whole_prompts(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale_rewards": "batch"}, "must be group or none"),
        ({"metric_for_best_model": "eval_accuracy"}, "must be one of reward, reward_greedy, reward_sampled"),
        ({"metric_for_best_model": "reward", "greater_is_better": False}, "negate it"),
        ({"model_init_kwargs": {"device_map": "auto"}}, "device_map: of these arguments, evolution takes"),
    ],
)
def test_a_value_that_means_nothing_is_refused(arguments: dict[str, Any], message: str) -> None:
    args = made(**arguments)
    with pytest.raises(ConfigError, match=message):
        [model_section(args, "name"), tree(args)]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE = 2"):
        made()


def test_the_model_is_loaded_as_the_arguments_say() -> None:
    args = made(bf16=True, trust_remote_code=True, model_init_kwargs={"revision": "main"}, use_cpu=True)
    assert model_section(args, "owner/name") == {
        "name": "owner/name",
        "dtype": "bfloat16",
        "trust_remote_code": True,
        "revision": "main",
        "device": "cpu",
    }


def test_trl_parses_the_arguments_from_a_command_line() -> None:
    line = ["--output_dir", "out", "--population", "8", "--num_generations", "2", "--hub_token", "secret"]
    [args] = TrlParser((EvolutionConfig,)).parse_args_and_config(line)
    assert (args.population, args.num_generations) == (8, 2)
    assert "secret" not in f"{args}{args!r}{args.to_json_string()}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": (object(), None)}, "optimizers = .*: there is no gradient"),
        ({"tools": [print]}, "tools = .*: a completion is one message"),
        (
            {"reward_fns": []},
            "unknown argument of EvolutionTrainer 'reward_fns'.*Did you mean 'reward_funcs'",
        ),
        ({"args": {}}, "args is a dict; EvolutionTrainer takes an EvolutionConfig"),
        ({"reward_funcs": [3]}, "must be a function, a name, or a list"),
        ({"train_dataset": {"train": []}}, "train_dataset is a dict; give one datasets.Dataset"),
        ({"train_dataset": iter([])}, "of a stream some rows"),
        ({"model": 3, "args": made()}, "model is a int; must be a model of transformers"),
    ],
)
def test_what_the_trainer_cannot_take_is_refused(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"model": "embedded:tiny-random-qwen2", "reward_funcs": "rouge_l"}
    with pytest.raises(ConfigError, match=message):
        EvolutionTrainer(**usual | {"train_dataset": [{"prompt": "?"}]} | arguments)
