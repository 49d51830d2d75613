"""The warm start: one short supervised fine-tuning of a new LoRA adapter, by TRL's SFTTrainer.

ESSA replaces what comes after it: "exactly one SFT LoRA adapter per backbone-task pair" (section 4).
"""

import contextlib
import copy
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from evolign.config import AdapterConfig, WarmStartConfig
from evolign.errors import ConfigError
from evolign.policy.adapter import new_adapter
from evolign.policy.base_model import BaseModel
from evolign.types import Example


def warm_start(base: BaseModel, config: AdapterConfig, rows: Sequence[Example], seed: int, out: Path) -> None:
    """Write to `out` a new adapter in PEFT's format, trained on `rows` where `config` asks for it.

    Raises ConfigError if training is asked for and a row has no completion, or there is no row.
    """
    with _given_back(base.model):
        peft_model = new_adapter(base.model, config, seed)
        try:
            if config.warm_start is not None:
                _fine_tune(peft_model, base, config.warm_start, rows, seed)
            peft_model.peft_config["default"].base_model_name_or_path = base.name
            peft_model.save_pretrained(str(out), save_embedding_layers=False)
        finally:
            peft_model.unload()


def _fine_tune(
    model: PeftModel, base: BaseModel, config: WarmStartConfig, rows: Sequence[Example], seed: int
) -> None:
    """Completion-only cross-entropy over the warm-up rows."""
    tokens = [_row(base, example, config.max_length) for example in rows]
    if not tokens:
        raise ConfigError(
            "adapter.warm_start needs solved rows, but the task has none; set task.num_warmup and, "
            "for your own rows, task.completion, or turn it off with adapter.warm_start=null"
        )
    on_cpu = base.model.device.type == "cpu"
    with _quiet(), tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

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
        SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(tokens),
            processing_class=base.tokenizer,
        ).train()


def _row(base: BaseModel, example: Example, max_length: int) -> dict[str, list[int]]:
    """Token ids exactly as the engine will see them, and a mask of what is to be learnt."""
    if example.completion is None:
        raise ConfigError(
            f"adapter.warm_start: row {example.id!r} has no completion to learn from; set "
            "task.completion, or turn the warm start off with adapter.warm_start=null"
        )
    prompt = base.encode(example.prompt)
    completion = base.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    completion = [*completion, base.tokenizer.eos_token_id or base.eos_token_ids[0]]
    return {
        "input_ids": [*prompt, *completion][:max_length],
        "completion_mask": ([0] * len(prompt) + [1] * len(completion))[:max_length],
    }


@contextlib.contextmanager
def _given_back(model: PreTrainedModel) -> Iterator[None]:
    """Undo what trainers leave on a model: hooks, checkpointing, `use_cache = False`, a patched forward."""
    modules = [
        (module, set(vars(module)), _flags(module), dict(module._forward_hooks)) for module in model.modules()
    ]
    settings = [vars(owner) for owner in (model.config, model.generation_config)]
    kept = copy.deepcopy(settings)
    try:
        yield
    finally:
        for module, names, flags, hooks in modules:
            for name in set(vars(module)) - names:
                delattr(module, name)
            vars(module).update(flags)
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)
        for now, before in zip(settings, kept, strict=True):
            now.clear()
            now.update(before)
        model.eval().requires_grad_(False)


def _flags(module: nn.Module) -> dict[str, bool]:
    return {name: value for name, value in vars(module).items() if isinstance(value, bool)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the trainers' chatter off the terminal and the network, and restore the environment."""
    import datasets
    import transformers

    before: dict[str, Any] = {"HF_HUB_DISABLE_TELEMETRY": os.environ.get("HF_HUB_DISABLE_TELEMETRY")}
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    bars = datasets.utils.logging.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL uses names that transformers 6 drops
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
