"""One typed tree: what a recipe may say, what comes first, and what a mistake in it is told."""

import inspect
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from evolign import config as config_module
from evolign.config import (
    ArithmeticConfig,
    CmaEsConfig,
    Config,
    Gsm8kConfig,
    OpenAiEsConfig,
    RandomSearchConfig,
    RowsConfig,
    SingularValuesConfig,
    SnesConfig,
    TransformersConfig,
)
from evolign.engines import ENGINES
from evolign.errors import ConfigError
from evolign.policy import SPACES
from evolign.recipe import dump, load, parse
from evolign.strategies import STRATEGIES
from evolign.tasks import TASKS

RECIPES = Path(__file__).parents[1] / "recipes"
EVERY_KIND = {
    "seed": 7,
    "model": {"name": "some/model", "dtype": "bfloat16"},
    "adapter": {"rank": 4, "target_modules": ["q_proj", "v_proj"], "warm_start": None},
    "space": {"alpha": 0.5},
    "task": {"name": "rows", "train": "rows.jsonl", "prompt": 'Q: {q}\n"A":', "metric": "accuracy"},
    "engine": {"micro_batch_size": 3, "memory_gb": 1.5},
    "strategy": {"name": "snes", "population": 7, "sigma": 1e-3},
    "evolution": {"max_minutes": 0.1, "target": -1.5, "prompt_sharing": "per_candidate"},
    "evaluation": {"decoding": ["sampled"], "select_by": "sampled"},
}


def write(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def test_an_empty_recipe_is_the_defaults() -> None:
    config = parse({})
    assert config == Config()
    assert (config.method, config.seed, config.task.name, config.strategy.name) == (
        "essa",
        0,
        "arithmetic",
        "cma_es",
    )
    assert config.strategy.sigma == "auto"


def test_every_field_is_documented() -> None:
    def sections(model: type[Any]) -> set[type[Any]]:
        found = {model}
        for field in model.model_fields.values():
            for kind in getattr(field.annotation, "__args__", [field.annotation]):
                if inspect.isclass(kind) and hasattr(kind, "model_fields"):
                    found |= sections(kind)
        return found

    found = sections(Config)
    assert found == {Config, *config_module.Section.__subclasses__()}, "this test must see every section"
    silent = [
        f"{section.__name__}.{name}"
        for section in found
        for name, field in section.model_fields.items()
        if not field.description and name != "name" and section is not Config
    ]
    assert silent == []


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", {"seed": 3, "adapter": {"rank": 4, "lora_alpha": 5.0}})
    config = load(path, ["adapter.rank=16", "adapter.target_modules=[a, b]", "strategy.name=snes"])
    assert (config.seed, config.adapter.lora_alpha) == (3, 5.0)
    assert (config.adapter.rank, config.adapter.target_modules) == (16, ["a", "b"])
    assert config.strategy == SnesConfig()
    assert config.sampling == Config().sampling
    assert load(path, ["seed=4", "seed=5"]).seed == 5  # the later override wins


def test_an_override_opens_or_closes_a_section(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", {"adapter": {"warm_start": None}})
    assert load(path).adapter.warm_start is None
    opened = load(path, ["adapter.warm_start.epochs=2"]).adapter.warm_start
    assert opened is not None and opened.epochs == 2.0
    assert load(path, ["adapter.warm_start={max_steps: 3}", "adapter.warm_start="]) == load(path)


@pytest.mark.parametrize("tree", [{}, EVERY_KIND], ids=["defaults", "every kind of value"])
def test_what_is_dumped_loads_to_an_equal_config(tmp_path: Path, tree: dict[str, Any]) -> None:
    config = parse(tree)
    path = tmp_path / "config.json"
    path.write_text(dump(config))
    assert load(path) == config
    assert dump(load(path)) == dump(config)
    assert json.loads(path.read_text())["evolution"].keys() == config.evolution.model_fields_set | {
        name for name in type(config.evolution).model_fields
    }


def test_a_recipe_may_be_json_and_the_tree_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(EVERY_KIND))
    assert load(path) == parse(EVERY_KIND)
    before = json.dumps(EVERY_KIND)
    parse(EVERY_KIND, ["adapter.rank=2", "task.train=other.jsonl"])
    assert json.dumps(EVERY_KIND) == before


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().adapter.rank = 2


@pytest.mark.skipif(not RECIPES.is_dir(), reason="there is no folder of recipes yet")
def test_every_recipe_in_the_repository_loads() -> None:
    paths = sorted(RECIPES.rglob("*.yaml"))
    assert paths, "the folder of recipes is empty"
    for path in paths:
        config = load(path)
        assert parse(json.loads(dump(config))) == config, path.name


def parameters(made: Any) -> set[str]:
    return {
        name
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


@pytest.mark.parametrize("section", [CmaEsConfig, SnesConfig, OpenAiEsConfig, RandomSearchConfig])
def test_the_fields_of_a_strategy_are_the_parameters_of_its_class(section: type[Any]) -> None:
    options = set(section.model_fields) - {"name", "sigma"}
    assert options == parameters(STRATEGIES[section().name]) - {"sigma", "seed"}


@pytest.mark.parametrize("section", [ArithmeticConfig, Gsm8kConfig, RowsConfig])
def test_the_fields_of_a_task_are_the_parameters_of_its_class(section: type[Any]) -> None:
    name = section.model_fields["name"].default
    assert set(section.model_fields) - {"name"} == parameters(resolve_name(TASKS[name]))


def test_the_fields_of_engine_and_space_are_the_parameters_of_their_classes() -> None:
    engine = parameters(resolve_name(ENGINES["transformers"]))
    assert set(TransformersConfig.model_fields) - {"name", "threads"} == engine  # threads: see essa.py
    space = parameters(resolve_name(SPACES["singular_values"]))
    assert set(SingularValuesConfig.model_fields) - {"name"} == space - {"seed"}


def test_every_registered_name_can_be_said_in_a_recipe() -> None:
    for name in STRATEGIES:
        assert parse({"strategy": {"name": name}}).strategy.name == name
    for name in TASKS:
        assert parse({"task": {"name": name, **({"train": "x"} if name == "rows" else {})}}).task.name == name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # unknown keys
        ("sed=1", "sed: unknown key; known here: method, seed, model,.*Did you mean 'seed'"),
        ("adapter.rnak=4", "adapter.rnak: unknown key;.*Did you mean 'rank'"),
        ("adapter.warm_start.epoch=4", "adapter.warm_start.epoch: unknown key;.*Did you mean 'epochs'"),
        ("strategy.populaton=4", "strategy.populaton: unknown key;.*Did you mean 'population'"),
        ("task.num_trian=4", "task.num_trian: unknown key;.*Did you mean 'num_train'"),
        ("strategy.learning_rate=1", "strategy.learning_rate: unknown key; known here: name, population"),
        ("zzz=1", "zzz: unknown key; known here:.*evaluation.$"),
        # settings that do not go together
        ("fitness={name: likelihood}", "sampling.samples_per_prompt = 1: .* use 2 or more"),
        ("fitness.name=likelyhood", "fitness.name = 'likelyhood': .*Did you mean 'likelihood'"),
        # wrong types
        ("adapter.rank=four", "adapter.rank = 'four': input should be a valid integer"),
        ("adapter.rank=2.5", "adapter.rank = 2.5: input should be a valid integer"),
        ("seed=null", "seed = None: input should be a valid integer"),
        ("seed=2026-01-31", r"seed = datetime.date\(2026, 1, 31\): input should be a valid"),
        ("adapter.warm_start.learning_rate=.nan", "adapter.warm_start.learning_rate = nan: .*finite number"),
        ("adapter=7", "adapter = 7: input should be a valid dictionary"),
        ("task=7", "task = 7: "),
        ("evaluation.decoding=greedy", "evaluation.decoding = 'greedy': input should be a valid list"),
        # out of range
        ("adapter.rank=0", "adapter.rank = 0: input should be greater than or equal to 1"),
        ("space.alpha=1.5", "space.alpha = 1.5: input should be less than or equal to 1"),
        ("strategy.population=1", "strategy.population = 1: input should be greater than or equal to"),
        ("strategy.sigma=-1", "strategy.sigma = -1: input should be greater than 0"),
        ("strategy.sigma=big", "strategy.sigma = 'big': input should be 'auto'"),
        ("sampling.temperature=-0.1", "sampling.temperature = -0.1: .*greater than or equal to 0"),
        ("evolution.prompts_per_generation=0", "evolution.prompts_per_generation = 0: "),
        ("evaluation.decoding=[]", r"evaluation.decoding = \[\]: .*at least 1 item"),
        # unknown names
        ("strategy.name=cmaes", "strategy.name = 'cmaes': must be one of cma_es, .*Did you mean 'cma_es'"),
        ("task.name=gsm8", "task.name = 'gsm8': must be one of .*Did you mean 'gsm8k'"),
        ("strategy.name=null", "strategy.name = 'None': must be one of"),
        ("evaluation.decoding=[greedy, beam]", "evaluation.decoding.1 = 'beam': input should be 'greedy'"),
        ("method=essay", "method = 'essay': input should be 'essa'"),
        # one field against another
        ("evaluation.decoding=[sampled]", "select_by = 'greedy' is not measured; add it to"),
        ("space.alpha=0.2", "space.alpha = 0.2 leaves none of adapter.rank = 4 .*; use at least 0.25"),
        ("strategy={name: openai_es, population: 7}", "population = 7 must be even .* use 6 or 8, or set"),
        ("task.name=rows", "task.train: field required"),
        # overrides that cannot be read
        ("seed", "cannot read the override 'seed'; write it as a.b.c=value"),
        ("=3", "cannot read the override '=3'; write it as a.b.c=value"),
        ("adapter.rank.x=3", "cannot set 'adapter.rank.x': 'rank' is 4, not a section"),
        ("adapter.target_modules=[a", "cannot read the value of 'adapter.target_modules=.a'"),
    ],
)
def test_a_wrong_value_is_told_field_value_and_rule(tmp_path: Path, override: str, words: str) -> None:
    path = write(tmp_path / "recipe.yaml", {"adapter": {"rank": 4}})
    with pytest.raises(ConfigError, match=words) as caught:
        load(path, [override])
    assert "Traceback" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", {"sed": 1, "adapter": {"rank": 0}, "space": {"alpha": 0}})
    with pytest.raises(ConfigError) as caught:
        load(path)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{path} is not a valid configuration:"
    assert [line.split()[0] for line in rest] == ["adapter.rank", "space.alpha", "sed:"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a mapping such as `seed: 0`, not None"),
        ("- seed: 0", r"must hold a mapping such as `seed: 0`, not \[{'seed': 0}\]"),
        ("seed", "must hold a mapping such as `seed: 0`, not 'seed'"),
        ("seed: [0", "is not valid YAML: .*line 1"),
        ("seed: 0\n  rank: 4", "is not valid YAML: .*line 2"),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML: could not determine a constructor"),
        ("seed: 2026-01-31", "seed = '2026-01-31': input should be a valid integer"),
        ("\xff\xfe", "cannot read the recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_why(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        load(path)


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe '.*no.yaml': .*No such file"):
        load(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*Is a directory"):
        load(tmp_path)
