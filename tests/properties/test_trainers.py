"""What the trainers optimise, against plain torch; what they train, when they stop, what they give back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import parse_as
from prepared_trainers import (
    ONE_STEP,
    assert_equal_gradients,
    gradients,
    prepared,
    rows_of,
    sft_loss,
    weights,
    without_dropout,
)
from training_runs import examples, task, tree

from evolign.commands.run import resume, run
from evolign.config import ModelConfig, RewardModelConfig
from evolign.config.recipe import dump, parse
from evolign.errors import ConfigError, RewardError
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.restoring import quiet
from evolign.runs.directory import RunDir, read_rows
from evolign.runs.progress import ASKED, Progress, Silent
from evolign.trainers.reward_model import Classifier, PairSession, PairTrainer
from evolign.trainers.trainer import Recorder


@pytest.fixture
def llama(base: Callable[[str], BaseModel]) -> BaseModel:
    return base("llama")


# Supervised fine-tuning.


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_step_of_sft_is_a_step_of_plain_torch(architecture: str, tmp_path: Path) -> None:
    """Loss, gradient, and the weights after one step of AdamW, against a loop of a few lines."""
    rows, base = task(), without_dropout(architecture, tmp_path / "model")
    with prepared("sft", base, rows, tmp_path / "run", training=ONE_STEP) as trainer:
        model, trainable = trainer.model, trainer.session.trainable
        loss = sft_loss(model, trainable.base, rows.train)
        loss.backward()
        expected = gradients(model)
        before = weights(trainer)
        optimiser = torch.optim.AdamW(trainable.parameters().values(), lr=1e-2, weight_decay=0.05)
        optimiser.step()
        stepped = weights(trainer)
        model.zero_grad()
        for name, parameter in trainable.parameters().items():
            parameter.data.copy_(before[name])
        trainer.train()
        assert rows_of(trainer)[0]["loss"] == pytest.approx(loss.item(), abs=1e-3)
        assert_equal_gradients(trainer.watch.gradients[0], expected)
        for name, value in weights(trainer).items():
            torch.testing.assert_close(value, stepped[name], rtol=1e-3, atol=2e-4)


def test_rows_that_are_cut_off_before_their_completion_are_told_and_left_out(
    llama: BaseModel, tmp_path: Path
) -> None:
    rows = task()
    longest = max(len(llama.encoder.encode(row.prompt)) for row in rows.train)
    training = ONE_STEP | {"max_length": longest}
    with prepared("sft", llama, rows, tmp_path / "run", training=training) as trainer:
        short = [row for row in rows.train if len(llama.encoder.encode(row.prompt)) < longest]
        assert 0 < len(short) < 12 and len(trainer.train_dataset) == len(short)
        [warning] = trainer.session.progress.said
        assert warning.startswith(f"Warning: {12 - len(short)} of 12 rows are left out, since training.max")
        trainer.train()
        assert math.isfinite(rows_of(trainer)[0]["loss"])
    with pytest.raises(ConfigError, match=r"training.max_length = 3 cuts all 12 rows off before their compl"):
        run(parse(tree("sft", training={"max_length": 3})), tmp_path / "none", task=rows, base=llama)


# Pairs.


@pytest.mark.parametrize(
    "options", [{}, {"adapter": None}, {"space": {"alpha": 1.0}}], ids=["LoRA", "all weights", "singular"]
)
def test_the_reference_of_dpo_is_the_policy_at_the_start(options: Any, tiny: Any, tmp_path: Path) -> None:
    """So the first loss is log 2, whatever the adapter that training starts from; later it is less."""
    base = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu"))
    with prepared("dpo", base, task(), tmp_path / "run", training={"batch_size": 12}, **options) as trainer:
        trainer.train()
        losses = [row["loss"] for row in rows_of(trainer)]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-3) and losses[-1] < losses[0] - 1e-3


def test_the_loss_of_a_reward_model_is_that_of_bradley_and_terry(llama: BaseModel, tmp_path: Path) -> None:
    rows = task()
    config = parse_as(RewardModelConfig, tree("reward_model", training=ONE_STEP))
    with RunDir.create(tmp_path / "run", dump(config)) as run_dir, quiet(), torch.random.fork_rng(devices=[]):
        session = PairSession(config, run_dir, rows, Classifier(config, llama), Silent())
        trainer = PairTrainer(session)
        assert "LoRA adapter and the head" in str(session.trainable)
        margin_P = session._margins(rows.train)
        trainer.add_callback(Recorder(session))
        trainer.train()
        expected = np.log1p(np.exp(-margin_P)).mean()
        assert rows_of(trainer)[0]["loss"] == pytest.approx(expected, abs=1e-3)
        assert (session._margins(rows.train) - margin_P).mean() > 0


# What is trained.


@pytest.mark.parametrize(("method", "alpha"), [("sft", 1.0), ("grpo", 0.5)])
def test_of_the_factors_only_the_singular_values_move(
    method: str, alpha: float, llama: BaseModel, tmp_path: Path
) -> None:
    """U^T (factor) V stays diagonal, with the singular vectors U and V of the start."""
    sections = {"space": {"alpha": alpha}, "adapter": {"rank": 4}}
    with prepared(method, llama, task(), tmp_path / "run", **sections) as trainer:
        trainable = trainer.session.trainable
        count = sum(parameter.numel() for parameter in trainable.parameters().values())
        assert count == int(4 * alpha) * 2 * 8  # two factors of eight layers
        layers = [module for module in trainer.model.modules() if hasattr(module, "lora_A")]
        start = [[m["default"].weight.detach().clone() for m in (la.lora_A, la.lora_B)] for la in layers]
        trainer.train()
        moved = 0.0
        for layer, factors in zip(layers, start, strict=True):
            for module, before in zip((layer.lora_A, layer.lora_B), factors, strict=True):
                u, s, v = torch.linalg.svd(before, full_matrices=False)
                core = u.T @ module["default"].weight.detach() @ v.T
                kept = int(4 * alpha)
                torch.testing.assert_close(u @ core @ v, module["default"].weight.detach(), atol=1e-5, rtol=0)
                torch.testing.assert_close(core - core.diag().diag(), torch.zeros(4, 4), atol=1e-5, rtol=0)
                torch.testing.assert_close(core.diag()[kept:], s[kept:], atol=1e-5, rtol=0)
                moved = max(moved, float((core.diag() - s)[:kept].abs().max()))
        assert moved > 1e-3


@pytest.mark.parametrize("method", ["sft", "eso", "ppo", "grpo"])
def test_micro_batches_give_the_gradients_of_one_batch(method: str, llama: BaseModel, tmp_path: Path) -> None:
    found = []
    for micro in (None, 3):
        training = ONE_STEP | {"micro_batch_size": micro}
        with prepared(method, llama, task(), tmp_path / str(micro), training=training) as trainer:
            trainer.train()
            [row] = rows_of(trainer)
            losses = {name: row[name] for name in row if name.startswith("loss")}
            found.append((trainer.watch.gradients, losses))
    assert len(found[0][0]) == len(found[1][0]) == 1
    assert_equal_gradients(found[1][0][0], found[0][0][0])
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3, abs=1e-3)


# Limits, and what is given back.

LIMITS: dict[str, tuple[dict[str, Any], str, int]] = {
    "sft": ({"epochs": 1.5, "max_steps": None}, "epochs = 1.5", 5),
    "eso": ({"max_completions": 9}, "max_completions = 9", 2),
    "grpo": ({"max_minutes": 1e-9}, "max_minutes = 1e-09", 1),
    "ppo": ({"max_steps": 3}, "max_steps = 3", 3),
    "dpo": ({"target": 0.0}, "target = 0.0", 2),
    "reward_model": ({"target": 1.1, "max_steps": 2}, "max_steps = 2", 2),
}


def settings_of(base: BaseModel) -> list[Any]:
    """What trainers change on a model beside its weights: its two configurations, and its dropout."""
    dropout = [module.p for module in base.model.modules() if isinstance(module, torch.nn.Dropout)]
    return [base.model.config.to_dict(), base.model.generation_config.to_dict(), dropout]


@pytest.mark.parametrize("method", LIMITS)
def test_a_run_stops_at_its_limit_and_gives_the_model_back_as_it_was(
    method: str, base: Callable[[str], BaseModel], tmp_path: Path
) -> None:
    training, stopped, steps = LIMITS[method]
    gpt2 = base("gpt2")
    before = {name: value.clone() for name, value in gpt2.model.state_dict().items()}
    settings = settings_of(gpt2)
    result = run(
        parse(tree(method, training=training)), tmp_path / "run", task=task(), base=gpt2, progress=Silent()
    )
    assert (result.summary["stopped"], result.summary["steps"]) == (stopped, steps)
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == list(range(steps + 1))
    after = gpt2.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert settings_of(gpt2) == settings


class Interrupting(Silent):
    """Whoever watches presses Ctrl-C after the first step."""

    def record(self, row: Any) -> None:
        if row["step"] == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["eso", "ppo", "dpo", "reward_model"])
def test_a_run_that_is_interrupted_gives_the_model_back_as_well(
    method: str, llama: BaseModel, tmp_path: Path
) -> None:
    """Adapters, hooks and training mode are looked for by the suite's guard."""
    settings = settings_of(llama)
    with pytest.raises(KeyboardInterrupt):
        run(parse(tree(method)), tmp_path / "run", task=task(), base=llama, progress=Interrupting())
    assert settings_of(llama) == settings


class AskingToStop(Progress):
    """A progress that asks to stop after the first step."""

    def say(self, text: str) -> None:
        pass

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        pass

    def record(self, row: Any) -> bool:
        return bool(row["step"] == 1)


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_a_run_that_its_progress_stops_exports_its_best_and_can_be_resumed(
    method: str, llama: BaseModel, tmp_path: Path
) -> None:
    config = parse(tree(method, training={"max_steps": 2}))
    stopped = run(config, tmp_path / "run", task=task(), base=llama, progress=AskingToStop())
    assert (stopped.summary["stopped"], stopped.summary["steps"]) == (ASKED, 1)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()
    assert not (tmp_path / "run/result.json").exists()
    resumed = resume(tmp_path / "run", task=task(), base=llama, progress=Silent())
    assert (resumed.summary["stopped"], resumed.summary["steps"]) == ("max_steps = 2", 2)


# Bad input.


@pytest.mark.parametrize("method", ["dpo", "reward_model", "sft", "eso"])
def test_rows_that_the_method_cannot_learn_from_are_told_before_anything_is_written(
    method: str, llama: BaseModel, tmp_path: Path
) -> None:
    rows = task(train=examples("train", 12, solved=False))
    what = (
        "pairs, but no row of the task's train split has both"
        if method in ("dpo", "reward_model")
        else ("reference completions, but the task has neither training rows with one nor warm-up rows")
    )
    with pytest.raises(ConfigError, match=f"method = '{method}' learns from {what}"):
        run(parse(tree(method)), tmp_path / "run", task=rows, base=llama, progress=Silent())
    assert not (tmp_path / "run").exists()


def test_a_reward_model_needs_pairs_to_be_judged_on(llama: BaseModel, tmp_path: Path) -> None:
    rows = task(validation=examples("validation", 4, solved=False))
    with pytest.raises(ConfigError, match="no row of the task's validation split has both a completion and"):
        run(parse(tree("reward_model")), tmp_path / "run", task=rows, base=llama, progress=Silent())


def nothing(prompts: Any, completions: Any, **columns: Any) -> list[None]:
    return [None] * len(prompts)


def test_a_reward_that_applies_to_nothing_is_an_error(llama: BaseModel, tmp_path: Path) -> None:
    with (
        pytest.raises(RewardError, match=r"returned None .* for all 4 prompts of an evaluation"),
        prepared("eso", llama, task(reward=nothing), tmp_path / "run") as trainer,
    ):
        trainer.train()
