"""What an evaluation reports, on an engine whose completions are known, and on real runs and models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny

import evolign
from evolign.config import EvaluationConfig
from evolign.config.recipe import parse
from evolign.engines.fake import FakeEngine
from evolign.errors import ConfigError, RewardError, RunError
from evolign.evaluation.evaluate import Evaluation, evaluate
from evolign.metrics import bootstrap, pass_at_k, rouge
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.types import Example, Population, Rollouts, Sampling

TEXTS = {"a": "the cats sat down", "b": "", "c": "a dog", "d": "the cat"}
EXAMPLES = [Example(name, f"prompt {name}", completion="the cat sat") for name in TEXTS]


class Length(Scoring):
    """Scores the length in characters; None for a text that begins with the letter n."""

    def score(self, examples: Sequence[Example], texts: Sequence[str], token_ids: object = None) -> Scores:
        return Scores(np.array([float(len(text)) for text in texts]))


class Right(Scoring):
    """1 where the completion says "right", NaN where it says nothing."""

    def score(self, examples: Sequence[Example], texts: Sequence[str], token_ids: object = None) -> Scores:
        values = np.array([np.nan if text == "" else float(text == "right") for text in texts])
        return Scores(values)


class Varied(FakeEngine):
    """Sample s of example p says what the table says: "right", "wrong" or nothing."""

    def __init__(self, table: Sequence[Sequence[str]]) -> None:
        super().__init__(lambda theta_D, example: "", dim=1)
        self.table = table

    def generate(self, population: Population, prompts_NP: Any, sampling: Sampling) -> Rollouts:
        text_NPS = np.array([[row[: sampling.samples_per_prompt] for row in self.table]], dtype=object)
        token_ids_NPS = np.empty(text_NPS.shape, dtype=object)
        for place, text in np.ndenumerate(text_NPS):
            token_ids_NPS[place] = (*map(ord, text), 2)
        return Rollouts(text_NPS, token_ids_NPS, np.zeros(text_NPS.shape, dtype=bool), seconds=0.0)


def judged(examples: Sequence[Example] = EXAMPLES, engine: Any = None, **given: Any) -> Evaluation:
    options = EvaluationConfig(**{"decoding": ["greedy"], **given.pop("options", {})})
    engine = engine or FakeEngine(lambda theta_D, example: TEXTS[example.id], dim=1)
    engine.add_prompts(examples)
    return evaluate(
        engine,
        given.pop("scorer", Length()),
        Population.of_mean(),
        examples,
        **{"metric": "reward", "options": options, "max_new_tokens": 30, "seed": 5, **given},
    )


def test_equal_rewards_are_told() -> None:
    def found(*scores: float | None) -> Evaluation:
        return Evaluation({}, [{"score": score} for score in scores])

    warning = found(0.0, None, 0.0, 0.0).warning
    assert "all 3 rewards so far are equal (0)" in warning and "the file that --out writes" in warning
    assert "samples.jsonl" not in warning, "an evaluation has none"
    assert found(0.0, 1.0).warning == found(1.0).warning == found(None).warning == found().warning == ""


def test_rouge_is_the_mean_over_the_examples_that_have_a_reference() -> None:
    bare = [Example("d", "prompt d"), Example("c", "prompt c", completion="¿¡")]
    found = judged(
        [*EXAMPLES[:3], *bare], engine=FakeEngine(lambda theta_D, example: TEXTS[example.id], dim=1)
    )
    expected = [rouge("the cat sat", TEXTS[name]) for name in "abc"]
    for name in ("rouge1", "rouge2", "rougeL"):
        value_P = np.array([one[name] for one in expected])
        assert found.metrics[f"{name}_greedy"] == pytest.approx(value_P.mean())
        ends = (found.metrics[f"{name}_greedy_low"], found.metrics[f"{name}_greedy_high"])
        assert ends == bootstrap(value_P, 5)
        assert [row.get(name) for row in found.samples] == [*value_P, None, None]
    assert found.metrics["referenced_greedy"] == pytest.approx(3 / 5)
    assert [row.get("reference") for row in found.samples] == ["the cat sat"] * 3 + [None, "¿¡"]


def test_without_references_or_when_switched_off_there_is_no_rouge_and_nothing_else_changes() -> None:
    with_rouge = judged()
    off = judged(options={"rouge": False})
    bare = judged([Example(example.id, example.prompt) for example in EXAMPLES])
    assert off.metrics == bare.metrics == {name: with_rouge.metrics[name] for name in off.metrics}
    assert not [name for name in off.metrics if "rouge" in name or name.startswith("referenced")]


def test_rouge_that_is_asked_for_needs_references() -> None:
    with pytest.raises(ConfigError, match="rouge = true, but none of the 1 examples has a reference"):
        judged([Example("a", "prompt a")], options={"rouge": True})


def test_completions_of_nothing_but_the_end_are_counted() -> None:
    found = judged(detailed=True)
    assert found.metrics["empty_greedy"] == 0.25
    full = [example for example in EXAMPLES if example.id != "b"]
    assert judged(full, detailed=True).metrics["empty_greedy"] == 0.0
    assert "empty_greedy" not in judged(full).metrics, "a run's validation says it where there is any"
    assert judged().metrics["empty_greedy"] == 0.25


def test_a_reward_that_applies_to_nothing_is_an_error_in_a_run_and_left_out_by_evaluate() -> None:
    nothing = Varied([["", ""]] * 4)
    with pytest.raises(RewardError, match="returned None"):
        judged(engine=nothing, scorer=Right())
    found = judged(engine=nothing, scorer=Right(), detailed=True)
    assert "reward_greedy" not in found.metrics and found.metrics["tokens_greedy"] == 1.0
    assert [sample["score"] for sample in found.samples] == [None] * 4


def test_the_length_has_its_interval() -> None:
    length_P = np.array([float(len(text)) for text in TEXTS.values()])
    found = judged(detailed=True).metrics
    assert found["tokens_greedy"] == length_P.mean()
    assert (found["tokens_greedy_low"], found["tokens_greedy_high"]) == bootstrap(length_P, 5)


R, W = "right", "wrong"
TABLE = [[R, R, W, W], [W, W, W, W], [R, R, R, R], [R, "", W, ""]]
"""Correct of applicable samples: 2 of 4, 0 of 4, 4 of 4, 1 of 2."""


def test_pass_at_k_and_the_means_over_samples_are_those_of_the_table() -> None:
    options = {"decoding": ["greedy", "sampled"], "samples": 4, "pass_at": [1, 2, 4]}
    found = judged(engine=Varied(TABLE), scorer=Right(), metric="accuracy", options=options)
    metrics = found.metrics
    assert metrics["accuracy_greedy"] == pytest.approx(3 / 4), "greedy decoding has one sample"
    assert metrics["accuracy_sampled"] == pytest.approx((0.5 + 0 + 1 + 0.5) / 4)
    assert metrics["pass@1_sampled"] == pytest.approx(metrics["accuracy_sampled"])
    two = [pass_at_k(4, 2, 2), 0.0, 1.0, pass_at_k(2, 1, 2)]
    assert metrics["pass@2_sampled"] == pytest.approx(np.mean(two))
    assert metrics["pass@4_sampled"] == pytest.approx((1 + 0 + 1) / 3), "prompts with too few are left out"
    assert metrics["pass@2_sampled_low"] <= metrics["pass@2_sampled"] <= metrics["pass@2_sampled_high"]
    assert metrics["empty_sampled"] == pytest.approx(2 / 16)
    assert "pass@1_greedy" not in metrics and found.cost.completions == 4 + 16
    rows = [row for row in found.samples if row["decoding"] == "sampled"]
    assert [(row["id"], row["sample"]) for row in rows[:5]] == [*((name, 0) for name in "abcd"), ("a", 1)]
    assert rows[1]["score"] == 0.0 and rows[7]["score"] is None


def test_more_samples_keep_the_first_ones() -> None:
    one = judged(engine=Varied(TABLE), scorer=Right(), options={"decoding": ["greedy"]})
    options = {"decoding": ["sampled"], "select_by": "sampled", "samples": 3}
    many = judged(engine=Varied(TABLE), scorer=Right(), options=options)
    assert [row["completion"] for row in many.samples[:4]] == [row["completion"] for row in one.samples]


def test_pass_at_k_of_a_reward_is_refused() -> None:
    options = {"decoding": ["greedy", "sampled"], "samples": 2, "pass_at": [2]}
    with pytest.raises(ConfigError, match=r"pass_at = \[2\] counts correct samples, .* metric is 'reward'"):
        judged(options=options)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pass_at": [1, 8], "samples": 4}, r"pass_at = \[1, 8\] needs at least 8 samples per prompt; set"),
        ({"pass_at": [2, 2], "samples": 4}, r"pass_at = \[2, 2\] names a k twice"),
        (
            {"samples": 4, "decoding": ["greedy"]},
            r"samples = 4 needs sampling, but .*decoding = \['greedy'\]",
        ),
        ({"pass_at": [0], "samples": 4}, "evaluation.pass_at.0 = 0: .*greater than or equal to 1"),
        ({"rouge": "maybe"}, "evaluation.rouge = 'maybe'"),
    ],
)
def test_what_cannot_be_evaluated_is_told_when_the_recipe_is_read(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"evaluation": settings})


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a task with references."""
    root = tmp_path_factory.mktemp("task")
    for split in ("train", "validation", "test"):
        rows = [{"prompt": f"{split} {i}", "gold": "a b c", "answer": "1"} for i in range(4)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"task.{split}={root / split}.jsonl" for split in ("train", "validation", "test")]
    return [*files, "task.name=rows", "task.completion=gold", "sampling.max_new_tokens=8"]


def run_with_full_weights(root: Path, model: Path, task: list[str], method: str = "sft") -> Path:
    """A finished run of all weights, as the gradient methods leave it."""
    run = root / "run"
    (run / "model").mkdir(parents=True)
    config = parse({"method": method, "adapter": None, "model": {"name": "./gone"}}, task)
    (run / "config.json").write_text(config.model_dump_json())
    (run / "provenance.json").write_text("{}")
    (run / "result.json").write_text("{}")
    for path in model.iterdir():
        (run / "model" / path.name).write_bytes(path.read_bytes())
    return run


def test_a_run_that_trained_all_weights_is_judged_and_exported_by_its_model(
    tiny: Callable[[str], Path], tmp_path: Path, task: list[str]
) -> None:
    model = save_tiny("gpt2", tmp_path / "trained", seed=3)
    run = run_with_full_weights(tmp_path, model, task)
    ours, theirs = evolign.evaluate(str(run)), evolign.evaluate(str(model), overrides=task)
    assert ours.samples == theirs.samples and ours.metrics == theirs.metrics
    assert {"rougeL_greedy_low", "rouge1_sampled", "tokens_greedy_high", "empty_sampled"} < set(ours.metrics)
    like = evolign.evaluate(str(model), like=str(run))
    assert like.samples == ours.samples
    other = evolign.evaluate(str(tiny("gpt2")), like=str(run))
    assert [row["prompt"] for row in other.samples] == [row["prompt"] for row in ours.samples]
    assert [row["completion"] for row in other.samples] != [row["completion"] for row in ours.samples]
    for merge in (False, True):
        evolign.export(run, tmp_path / f"out {merge}", merge=merge)
        assert evolign.evaluate(str(tmp_path / f"out {merge}"), overrides=task).samples == ours.samples


def test_an_unfinished_run_and_a_reward_model_are_told(
    tiny: Callable[[str], Path], tmp_path: Path, task: list[str]
) -> None:
    run = run_with_full_weights(tmp_path, tiny("gpt2"), task, method="reward_model")
    with pytest.raises(ConfigError, match="is a reward model, which scores completions and writes none"):
        evolign.evaluate(str(run))
    (run / "model" / "config.json").unlink()
    with pytest.raises(RunError, match="is a run that is not finished; first `evolign resume"):
        evolign.evaluate(str(run))


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_leaving_out_a_decoding_is_no_matter_of_what_the_run_selected_by(
    decoding: str, tiny: Callable[[str], Path], tmp_path: Path, task: list[str]
) -> None:
    other = "sampled" if decoding == "greedy" else "greedy"
    run = run_with_full_weights(tmp_path, tiny("gpt2"), [*task, f"evaluation.select_by={other}"])
    found = evolign.evaluate(str(run), overrides=[f"evaluation.decoding=[{decoding}]"])
    assert {row["decoding"] for row in found.samples} == {decoding}
    with pytest.raises(ConfigError, match=f"select_by = '{other}' is not measured"):
        evolign.evaluate(
            str(run), overrides=[f"evaluation.decoding=[{decoding}]", f"evaluation.select_by={other}"]
        )


def test_an_override_never_replaces_what_is_evaluated(
    tiny: Callable[[str], Path], tmp_path: Path, task: list[str]
) -> None:
    here = f"model.name={tiny('gpt2')}"
    for override in (here, f"model={{name: {tiny('gpt2')}}}"):
        with pytest.raises(
            ConfigError, match=r"would replace what is evaluated, '.*/nosuch/adapter' \(there is no"
        ):
            evolign.evaluate(str(tmp_path / "nosuch" / "adapter"), overrides=[*task, override])
    with pytest.raises(ConfigError, match=r"would replace what is evaluated, '.*gpt2'; leave it out"):
        evolign.evaluate(str(tiny("gpt2")), overrides=[*task, here])
    run = run_with_full_weights(tmp_path, tiny("gpt2"), task)
    with pytest.raises(ConfigError, match="would replace what is evaluated"):
        evolign.evaluate(str(run), overrides=[here])
