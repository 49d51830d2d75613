"""The warm start: one short supervised fine-tuning of a new LoRA adapter, by TRL's SFTTrainer.

ESSA replaces what comes after it: "exactly one SFT LoRA adapter per backbone-task pair" (section 4).
"""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerState

from evolign.config import AdapterConfig, WarmStartConfig
from evolign.errors import ConfigError
from evolign.policy.adapter import adapted, check_numbers, collect, new_adapter
from evolign.policy.base_model import BaseModel
from evolign.policy.restoring import given_back, on_one_gpu, quiet
from evolign.policy.targets import check_trainable
from evolign.runs.phases import Phase
from evolign.runs.progress import Progress, Silent
from evolign.seeding import random_states_kept
from evolign.types import Example


def warm_start(
    base: BaseModel,
    config: AdapterConfig,
    rows: Sequence[Example],
    seed: int,
    out: Path,
    progress: Progress | None = None,
) -> None:
    """Write to `out` a new adapter in PEFT's format, trained on `rows` where `config` asks for it.

    Raises ConfigError if training is asked for and a row has no completion, or there is no row, and if it
    has diverged: nothing is written then.
    """
    with given_back(base.model):
        peft_model = new_adapter(base.model, config, seed)
        try:
            if config.warm_start is not None:
                check_trainable(base.model, adapted(peft_model))
                _fine_tune(peft_model, base, config.warm_start, rows, seed, progress or Silent())
            check_numbers(
                collect(peft_model),
                "adapter.warm_start",
                "lower adapter.warm_start.learning_rate or lora_alpha",
            )
            peft_model.peft_config["default"].base_model_name_or_path = base.name
            peft_model.save_pretrained(str(out), save_embedding_layers=False)
        finally:
            peft_model.unload()


def _fine_tune(
    model: PeftModel,
    base: BaseModel,
    config: WarmStartConfig,
    rows: Sequence[Example],
    seed: int,
    progress: Progress,
) -> None:
    """Completion-only cross-entropy over the warm-up rows."""
    if not rows:
        raise ConfigError(
            "adapter.warm_start needs solved rows, but the task has none; set task.num_warmup and, "
            "for your own rows, task.completion, or turn it off with adapter.warm_start=null"
        )
    for example in rows:
        if example.completion is None:
            raise ConfigError(
                f"adapter.warm_start: row {example.id!r} has no completion to learn from; set "
                "task.completion, or turn the warm start off with adapter.warm_start=null"
            )
    tokens = [sft_row(base, example, config.max_length) for example in rows]
    if not any(1 in row["completion_mask"] for row in tokens):
        raise ConfigError(
            f"adapter.warm_start.max_length = {config.max_length} cuts all {len(rows)} rows off before their "
            "completion; use a larger one"
        )
    with (
        quiet(),
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as scratch,
        random_states_kept(),
    ):
        from datasets import Dataset
        from trl import SFTTrainer

        trainer = SFTTrainer(
            model=model,
            args=_arguments(base, config, seed, scratch),
            train_dataset=Dataset.from_list(tokens),
            processing_class=base.tokenizer,
        )
        with progress.phase("warm start", unit="steps") as phase:
            trainer.add_callback(_Steps(phase))
            trainer.train()


def _arguments(base: BaseModel, config: WarmStartConfig, seed: int, scratch: str) -> Any:
    """TRL's, for a short training that writes nothing but to `scratch`."""
    from trl import SFTConfig

    on_cpu = base.model.device.type == "cpu"
    arguments = SFTConfig(
        output_dir=scratch,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        max_length=None,
        completion_only_loss=True,
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        bf16=base.model.dtype == torch.bfloat16,
        fp16=base.model.dtype == torch.float16,
        gradient_checkpointing=not on_cpu,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    return on_one_gpu(arguments, base.model.device)


class _Steps(TrainerCallback):
    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._phase.total = state.max_steps

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._phase.advance()


def sft_row(base: BaseModel, example: Example, max_length: int) -> dict[str, list[int]]:
    """Prompt and completion exactly as the engine sees them, and a mask of what is to be learnt."""
    prompt, completion = (
        base.encoder.encode(example.prompt),
        base.encoder.encode_completion(example.completion or ""),
    )
    return {
        "input_ids": [*prompt, *completion][:max_length],
        "completion_mask": ([0] * len(prompt) + [1] * len(completion))[:max_length],
    }
