"""One typed tree: what a recipe may say, what comes first, and what a mistake in it is told."""

import inspect
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml
from configs import evolution

from evolign import config as config_module
from evolign.commands.run import METHODS
from evolign.config import (
    CONFIGS,
    ArithmeticConfig,
    CmaEsConfig,
    Config,
    EvolutionConfig,
    GradientConfig,
    Gsm8kConfig,
    OpenAiEsConfig,
    RandomSearchConfig,
    RowsConfig,
    SingularValuesConfig,
    SnesConfig,
    SummariesConfig,
    TransformersConfig,
)
from evolign.config.recipe import dump, load, parse
from evolign.config.section import AtMost, Number
from evolign.engines import ENGINES
from evolign.errors import ConfigError
from evolign.policy.spaces import SPACES
from evolign.strategies import STRATEGIES
from evolign.tasks import TASKS

ROOT = Path(__file__).parents[2]

RECIPES = Path(__file__).parents[2] / "recipes"
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
    assert config == EvolutionConfig()
    assert (config.method, config.seed, config.task.name, config.strategy.name) == (
        "evolution",
        0,
        "arithmetic",
        "cma_es",
    )
    assert config.strategy.sigma == "auto"


def test_every_method_has_a_configuration_of_its_own_with_the_shared_part_in_it() -> None:
    assert CONFIGS.keys() == METHODS.keys()
    assert len(set(CONFIGS.values())) == len(CONFIGS)
    for method, kind in CONFIGS.items():
        config = parse({"method": method})
        assert type(config) is kind and config == kind(method=method) and config.method == method
        assert kind.__doc__ and set(Config.model_fields) <= set(kind.model_fields)
        assert issubclass(kind, GradientConfig) == (method != "evolution")


def test_every_field_is_documented() -> None:
    def sections(annotation: Any) -> set[type[Any]]:
        if inspect.isclass(annotation) and hasattr(annotation, "model_fields"):
            fields = annotation.model_fields.values()
            return {annotation}.union(*(sections(field.annotation) for field in fields))
        return set().union(*(sections(member) for member in getattr(annotation, "__args__", ())))

    def kinds(section: type[Any]) -> set[type[Any]]:
        return {section}.union(*(kinds(kind) for kind in section.__subclasses__()))

    found = set().union(*(sections(kind) for kind in CONFIGS.values()))
    bases = {kind for kind in kinds(config_module.Section) if kind.__subclasses__()}
    assert kinds(config_module.Section) - bases <= found, "this test must see every section"
    silent = [
        f"{section.__name__}.{name}"
        for section in found
        for name, field in section.model_fields.items()
        if not field.description and name != "name" and not sections(field.annotation)
    ]
    assert silent == []
    assert [section.__name__ for section in found if not section.__doc__] == []


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", {"seed": 3, "adapter": {"rank": 4, "lora_alpha": 5.0}})
    config = load(path, ["adapter.rank=16", "adapter.target_modules=[a, b]", "strategy.name=snes"])
    assert isinstance(config, EvolutionConfig) and config.adapter is not None
    assert (config.seed, config.adapter.lora_alpha) == (3, 5.0)
    assert (config.adapter.rank, config.adapter.target_modules) == (16, ["a", "b"])
    assert config.strategy == SnesConfig()
    assert config.sampling == EvolutionConfig().sampling
    assert load(path, ["seed=4", "seed=5"]).seed == 5  # the later override wins


def test_an_override_opens_or_closes_a_section(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", {"adapter": {"warm_start": None}})
    closed, opened = load(path).adapter, load(path, ["adapter.warm_start.epochs=2"]).adapter
    assert closed is not None and closed.warm_start is None
    assert opened is not None and opened.warm_start is not None and opened.warm_start.epochs == 2.0
    assert load(path, ["adapter.warm_start={max_steps: 3}", "adapter.warm_start="]) == load(path)


@pytest.mark.parametrize("method", CONFIGS)
def test_the_defaults_of_every_method_survive_being_dumped(tmp_path: Path, method: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(dump(parse({"method": method})))
    assert load(path) == parse({"method": method})
    assert dump(load(path)) == path.read_text()


@pytest.mark.parametrize("tree", [{}, EVERY_KIND], ids=["defaults", "every kind of value"])
def test_what_is_dumped_loads_to_an_equal_config(tmp_path: Path, tree: dict[str, Any]) -> None:
    config = evolution(tree)
    path = tmp_path / "config.json"
    path.write_text(dump(config))
    assert load(path) == config
    assert dump(load(path)) == dump(config)
    assert json.loads(path.read_text())["evolution"].keys() == config.evolution.model_fields_set | set(
        type(config.evolution).model_fields
    )


def test_a_recipe_may_be_json_and_the_tree_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(EVERY_KIND))
    assert load(path) == parse(EVERY_KIND)
    before = json.dumps(EVERY_KIND)
    parse(EVERY_KIND, ["adapter.rank=2", "task.train=other.jsonl"])
    assert json.dumps(EVERY_KIND) == before


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EvolutionConfig().adapter.rank = 2


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
    assert options == parameters(STRATEGIES[section().name]) - {"sigma", "seed", "subspaces"}


@pytest.mark.parametrize("section", [ArithmeticConfig, SummariesConfig, Gsm8kConfig, RowsConfig])
def test_the_fields_of_a_task_are_the_parameters_of_its_class(section: type[Any]) -> None:
    name = section.model_fields["name"].default
    fields = set(section.model_fields) - {"name", "rewards"}  # several rewards are its `reward`
    assert fields == parameters(resolve_name(TASKS[name]))


def test_the_fields_of_engine_and_space_are_the_parameters_of_their_classes() -> None:
    engine = parameters(resolve_name(ENGINES["transformers"]))
    assert {*TransformersConfig.model_fields} - {"name"} | {"progress"} == engine
    space = parameters(resolve_name(SPACES["singular_values"]))
    assert set(SingularValuesConfig.model_fields) - {"name"} == space - {"seed"}


def test_every_registered_name_can_be_said_in_a_recipe() -> None:
    for name in STRATEGIES:
        assert evolution({"strategy": {"name": name}}).strategy.name == name
    for name in TASKS:
        file = {"test": "x"} if name == "vicuna" else {}
        assert parse({"task": {"name": name, **file}}).task.name == name


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
        ("zzz=1", "zzz: unknown key; known here:.*evolution.$"),
        # settings that do not go together
        ("fitness={name: likelihood}", "sampling.samples_per_prompt = 1: .* use 2 or more"),
        ("strategy={name: openai_es, optimizer: trust_region}", "'trust_region' sizes steps by .* use adam"),
        ("space={name: lora}", "strategy.name = 'cma_es' searches .* at every step; use openai_es, or"),
        ("fitness.name=likelyhood", "fitness.name = 'likelyhood': .*Did you mean 'likelihood'"),
        # wrong types
        ("adapter.rank=four", "adapter.rank = 'four': input should be a valid integer"),
        ("adapter.rank=2.5", "adapter.rank = 2.5: input should be a valid integer"),
        ("seed=null", "seed = None: input should be a valid integer"),
        ("seed=2026-01-31", "seed = '2026-01-31': input should be a valid"),
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
        (
            "method=evolutio",
            "unknown method 'evolutio'; known: dpo, eso, evolution, .*Did you mean 'evolution'",
        ),
        ("method=essa", "ESSA is a recipe of `method: evolution`, .*; write `method: evolution`"),
        ("reward.workers=2", "how rewards are run is called `scoring`; write `scoring:`"),
        ("method=null", "unknown method None; known: dpo, eso, evolution, "),
        # one field against another
        ("evaluation.decoding=[sampled]", "select_by = 'greedy' is not measured; add it to"),
        ("space.alpha=0.2", "space.alpha = 0.2 leaves none of adapter.rank = 4 .*; use at least 0.25"),
        ("strategy={name: openai_es, population: 7}", "population = 7 must be even .* use 6 or 8, or set"),
        ("task.name=vicuna", "task.test: field required"),
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


def sections(tree: dict[str, Any], above: str = "") -> list[str]:
    """The dotted names of all sections in a tree."""
    named = [(f"{above}{name}", value) for name, value in tree.items() if isinstance(value, dict)]
    return [found for name, value in named for found in (name, *sections(value, f"{name}."))]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_an_unknown_key_is_named_in_every_section_of_every_recipe(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLIGN_DATA", str(ROOT))
    for section in sections(load(recipe).model_dump(mode="json")):
        if section != "model.chat_template_kwargs":  # takes any
            with pytest.raises(ConfigError, match=f"{section}.nobody: unknown key; known here: "):
                load(recipe, [f"{section}.nobody=1"])


@pytest.mark.parametrize(
    ("method", "override", "words"),
    [
        ("sft", "strategy.population=4", "strategy: unknown key; known here: method, seed, .*training.$"),
        ("sft", "objective.weight=1", "objective: unknown key; known here:"),
        ("sft", "sampling.temperature=1", "sampling.temperature: unknown key; known here: max_new_tokens.$"),
        ("eso", "evolution.generations=4", "evolution: unknown key; known here:"),
        ("eso", "objective.beta=1", "objective.beta: unknown key; known here: weight, temperatures, "),
        ("eso", "sampling.samples_per_prompt=4", "sampling.samples_per_prompt: unknown key"),
        ("eso", "objective.temperatures=[0]", r"objective.temperatures.0 = 0: .*greater than 0"),
        ("eso", "objective.temperatures=[]", r"objective.temperatures = \[\]: .*at least 1 item"),
        ("eso", "objective.from_epoch=first", "objective.from_epoch = 'first': input should be"),
        ("grpo", "objective.betta=1", "objective.betta: unknown key; .*Did you mean 'beta'"),
        ("ppo", "objective.gae_lambda=2", "objective.gae_lambda = 2: .*less than or equal to 1"),
        (
            "ppo",
            "objective.mini_batches=17",
            r"mini_batches = 17, but a batch has 16 .*use at most",
        ),
        ("dpo", "objective.loss=sigmoidal", "objective.loss = 'sigmoidal': input should be 'sigmoid'"),
        ("ppo", "training.bach_size=3", "training.bach_size: unknown key;.*Did you mean 'batch_size'"),
        ("eso", "training.micro_batch_size=5", "micro_batch_size = 5 must divide the 16 rows .*; use 4$"),
        ("sft", "training.micro_batch_size=32", "micro_batch_size = 32 must divide the 16 rows .*; use 16$"),
        (
            "grpo",
            "training.micro_batch_size=48",
            "micro_batch_size = 48 must divide the 128 rows .*; use 32",
        ),
        ("ppo", "sampling.temperature=0", "sampling.temperature = 0: method = 'ppo' needs completions that"),
        ("grpo", "sampling.temperature=0", "sampling.temperature = 0: method = 'grpo' needs completions"),
        (
            "sft",
            "space.alpha=0.1",
            "space.alpha = 0.1 leaves none of adapter.rank = 8 .*; use at least 0.125",
        ),
        (
            "reward_model",
            "space.alpha=1",
            "space, adapter.path and adapter.warm_start are for language models",
        ),
        ("reward_model", "adapter.warm_start.epochs=1", "are for language models; method = 'reward_model'"),
        ("grpo", "sampling.samples_per_prompt=1", "samples_per_prompt = 1: .*use 2 or more, for example 8"),
        ("evolution", "training.batch_size=3", "training: unknown key; known here: method, seed, model"),
        ("evolution", "adapter=null", "adapter = None: input should be a valid"),
    ],
)
def test_what_a_method_does_not_know_or_cannot_do_is_told(method: str, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"method": method}, [override])


SERVED = "http://localhost:8000"


@pytest.mark.parametrize(
    ("engine", "fitness", "words"),
    [
        (
            {"name": "vllm", "url": SERVED},
            "likelihood",
            "reads completions, which engine.name = 'vllm' cannot",
        ),
        (
            {"name": "vllm", "url": "localhost:8000"},
            "reward",
            "must be the address of a server, such as http",
        ),
        ({"name": "vllm", "url": [SERVED, "file:///etc"]}, "reward", "must be the address of a server"),
        ({"name": "vllm", "url": []}, "reward", "at least 1 item"),
        (
            {"name": "vllm", "url": SERVED, "gpu_memory": 0.9},
            "reward",
            "engine.gpu_memory is for vLLM in this",
        ),
        ({"name": "ray", "worker": {"name": "vllm", "url": SERVED}}, "reward", "servers .* need no workers"),
    ],
)
def test_servers_of_vllm_are_asked_for_what_they_can(
    engine: dict[str, object], fitness: str, words: str
) -> None:
    sampling = {"samples_per_prompt": 4}
    strategy = {"name": "openai_es"}
    with pytest.raises(ConfigError, match=words):
        parse({"engine": engine, "fitness": {"name": fitness}, "sampling": sampling, "strategy": strategy})


def test_singular_values_are_those_of_an_adapter() -> None:
    with pytest.raises(
        ConfigError, match="space trains the singular values of an adapter, but adapter = null"
    ):
        parse({"method": "sft", "adapter": None, "space": {}})


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
        ("seed: [0", "line 1, column 9: it is not valid YAML: "),
        ("seed: 0\n  rank: 4", "line 2, column 7: it is not valid YAML: "),
        (
            "a: !!python/object/apply:os.getcwd []",
            "line 1: tags such as .* are not read; write a plain value",
        ),
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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("strategy.population=100000000", "at most 100,000, since all are in memory at once"),
        ("adapter.rank=99999999999999999999999", "at most 65,536, since no layer of a model is wider"),
        ("adapter.rank=1e23", "adapter.rank = 1e"),
        ("seed=18446744073709551616", "at most 4,294,967,295, since NumPy's own generator"),
        ("task.num_train=1000000000", "at most 25,000, since the rows are made when a run starts"),
        ("engine.threads=100000", "at most 1,024, since no machine has more cores"),
        ("scoring.timeout_seconds=1e30", "at most 604,800, since that is a week"),
        ("space={name: lora, terms: 1000000}", "at most 1,024, since each is a direction of every factor"),
        ("adapter.lora_alpha=1e308", "at most 1e.06, since float32 keeps seven digits"),
        ("scoring.failure_score=-1e300", "failure_score = -1e.300: .*greater than or equal to"),
        ("evolution.generations=10000000000", "since no run gets that far"),
        ("evolution={prompts_per_generation: 100000, max_minutes: 1}", "completions .*lower one"),
        ("model.device=meta", "model.device = 'meta': must be auto, cpu, cuda, mps or xpu"),
        ("model.name=" + "x" * 300, "at most 255 bytes between slashes"),
        ("model.name=" + "x/" * 3000, "4096 in all"),
        (r'model.name="a\0b"', "must not hold a null character"),
        ("strategy.sigma=true", "strategy.sigma = True: must be a number, not true or false"),
        ("evaluation.pass_at=[true]", "must be a number, not true or false"),
        ("space.alpha=true", "must be a number, not true or false"),
    ],
)
def test_what_no_machine_holds_is_refused_with_the_reason(override: str, words: str) -> None:
    long = ["sampling.max_new_tokens=2000"] if "prompts" in override else []
    with pytest.raises(ConfigError, match=words):
        parse({}, [override, *long])


def test_every_number_of_a_recipe_has_an_upper_bound_and_no_bound_is_without_a_reason() -> None:
    def numbers(annotation: Any, metadata: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The constraints of every int and float in an annotation."""
        if annotation in (int, float):
            return [metadata]
        inside = getattr(annotation, "__metadata__", ())
        members = getattr(annotation, "__args__", ())
        return [found for member in members for found in numbers(member, (*metadata, *inside))]

    def sections(kind: type[Any]) -> set[type[Any]]:
        return {kind}.union(*(sections(heir) for heir in kind.__subclasses__()))

    seen = 0
    for section in sections(config_module.Section):
        for name, field in section.model_fields.items():
            for metadata in numbers(field.annotation, tuple(field.metadata)):
                where, seen = f"{section.__name__}.{name}", seen + 1
                limits = [getattr(item, "metadata", [item]) for item in metadata]
                bounds = [
                    item for group in limits for item in group if hasattr(item, "le") or hasattr(item, "lt")
                ]
                assert bounds, f"{where} has no upper bound"
                own = [item for item in metadata if isinstance(item, Number)]
                assert own, f"{where} takes true for 1"
                assert all(item.reason for item in own if isinstance(item, AtMost)), where
    assert seen > 80


HERE = {
    "rows.jsonl": "rows.jsonl",
    "~/rows.jsonl": "rows.jsonl",
    "$HERE/rows.jsonl": "$HERE/rows.jsonl",
    "$THERE/rows.jsonl": "rows.jsonl",
    "openai/gsm8k:main": None,
    "owner/data": None,
    "no.jsonl": None,
}
REWARDS_HERE = {
    "mine.py:score": "mine.py:score",
    "~/mine.py:score": "mine.py:score",
    "classifier:judge?label=1": "judge?label=1",
    "classifier:owner/judge": None,
    "rouge_l": None,
    "mine:score": None,
}


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        *(("train", value, kept) for value, kept in HERE.items()),
        *(("reward", value, kept) for value, kept in REWARDS_HERE.items()),
    ],
)
def test_what_a_recipe_names_by_a_relative_path_is_found_from_anywhere(
    field: str, value: str, kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rows.jsonl", "mine.py"):
        (tmp_path / name).touch()
    for name in ("judge", "owner/data"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name, folder in (("HOME", str(tmp_path)), ("HERE", str(tmp_path)), ("THERE", ".")):
        monkeypatch.setenv(name, folder)
    config = parse({"task": {"name": "rows", field: value}})
    kind = "classifier:" if value.startswith("classifier:") else ""
    where = value if kept is None else kept if kept.startswith("$") else f"{kind}{tmp_path / kept}"
    assert getattr(config.task, field) == where
    monkeypatch.chdir("/")
    assert parse(json.loads(dump(config))) == config
