"""Connecting the Trainer of transformers to a run: arguments, records and checkpoints."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evolign.config import GradientConfig
from evolign.policy.restoring import on_one_gpu
from evolign.runs.access import writing
from evolign.trainers.checkpoints import loading
from evolign.trainers.session import Session

WEIGHTS = "trainable.safetensors"


class Recorder(TrainerCallback):
    """Reports the Trainer's steps to the session, which counts, validates, logs, saves and stops.

    A checkpoint is written with every validation, but only between batches of completions: every
    `steps_per_batch` steps.
    """

    def __init__(self, session: Session, steps_per_batch: int = 1) -> None:
        self._session, self._steps_per_batch = session, steps_per_batch
        self._save_is_due = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._session.epoch = state.epoch or 0.0
        self._session.start(state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        self._session.epoch = state.epoch or 0.0
        self._session.end_step(step)
        stopped = bool(self._session.state.stopped)
        control.should_training_stop = control.should_training_stop or stopped
        self._save_is_due = self._save_is_due or step % self._session.config.evaluation.every == 0
        if stopped or (self._save_is_due and step % self._steps_per_batch == 0):
            control.should_save, self._save_is_due = True, False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._session.log(logs | {"epoch": state.epoch or 0.0})
            if self._session.asked_to_stop and state.global_step % self._steps_per_batch == 0:
                control.should_training_stop = control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._session.save(state.global_step)


class Resumable:
    """Mixed into a Trainer: one GPU; of the model, a checkpoint holds what is trained, as safetensors."""

    session: Any

    def __init__(self, *, args: TrainingArguments, **more: Any) -> None:
        device = self.session.trainable.base.model.device
        super().__init__(args=on_one_gpu(args, device), **more)  # type: ignore[call-arg]  # the Trainer's

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        self.session.trainable.save(Path(output_dir) / WEIGHTS)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with writing(self.session.run.path):
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]  # the Trainer's

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with loading(resume_from_checkpoint):
            self.session.trainable.load(Path(resume_from_checkpoint) / WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(checkpoint or ""):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run directory has its own."""


def arguments(config: GradientConfig, session: Session, **more: Any) -> dict[str, Any]:
    """The fields of TrainingArguments that every method shares; `more` comes on top."""
    training, base = config.training, session.trainable.base
    on_cpu = base.model.device.type == "cpu"
    micro_batch_size = training.micro_batch_size or training.batch_size
    checkpointing = (
        not on_cpu if training.gradient_checkpointing == "auto" else training.gradient_checkpointing
    )
    mixed = not on_cpu and torch.cuda.is_bf16_supported()
    return {
        "output_dir": str(session.run.checkpoints),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": training.batch_size // micro_batch_size,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": checkpointing,
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": on_cpu,
        "bf16": mixed,
        "fp16": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    } | more
