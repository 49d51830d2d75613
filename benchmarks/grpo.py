"""GRPO by TRL from the same warm start, task and evaluation as a recipe: what gradients need on it.

    python benchmarks/grpo.py recipes/embedded/essa-likelihood.yaml --steps 40 --learning-rate 3e-3 seed=0

Every step samples `evolution.prompts_per_generation` prompts x `sampling.samples_per_prompt` completions, as
the recipe's generation does. Held-out accuracy comes from evolign's engine and the recipe's validation
prompts, test accuracy from its test prompts at the last step; the last line printed is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from evolign.evaluation import evaluate_split
from evolign.policy.adapter import Adapter, collect
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.policy.singular_values import SingularValues
from evolign.policy.threads import cpu_threads
from evolign.provenance import peak_memory_bytes
from evolign.recipe import load
from evolign.tasks import build_task
from evolign.tasks.rewards import load_reward
from evolign.tasks.scoring import Scorer


def accuracy(config: Any, task: Any, model: Any, base: Any, split: str) -> dict[str, float]:
    """The metrics of `evolign evaluate`, of the LoRA weights in `model`, a PEFT model around `base`."""
    from evolign.engines.transformers import TransformersEngine

    adapter = Adapter(collect(model), {})
    with model.disable_adapter():
        inner = model.get_base_model()
        hooked = Policy(_inside(base, inner), adapter, SingularValues(adapter))
        with (
            TransformersEngine(hooked) as engine,
            Scorer(task.reward, **config.reward.model_dump()) as scorer,
        ):
            theta_D = np.zeros(hooked.space.dim)
            return evaluate_split(config, task, split, engine, scorer, theta_D).metrics


def _inside(base: Any, model: Any) -> Any:
    """The base model with PEFT's layers in it: evaluation hooks its layers while the adapter is off."""
    return type(
        "Inside", (), {name: getattr(base, name) for name in dir(base) if name[:2] != "__"} | {"model": model}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings on top of the recipe, as a.b.c=value")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_intermixed_args()
    config = load(options.recipe, options.overrides)
    task, base = build_task(config.task), load_base_model(config.model)
    with cpu_threads(base.model, config.engine.threads), tempfile.TemporaryDirectory() as scratch:
        warm = Path(scratch) / "warm"
        load_policy(config, base, task.warmup, warm)
        print(json.dumps(train(config, task, base, warm, options, Path(scratch))))


def train(config: Any, task: Any, base: Any, warm: Path, options: Any, scratch: Path) -> dict[str, Any]:
    """One GRPO run; returns its curve, cost and test accuracy."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    group, prompts = config.sampling.samples_per_prompt, config.evolution.prompts_per_generation
    model = PeftModel.from_pretrained(base.model, str(warm), is_trainable=True)
    curve: list[dict[str, float]] = []
    spent = {"seconds": 0.0, "since": time.perf_counter()}

    def judge(step: int) -> None:
        spent["seconds"] += time.perf_counter() - spent["since"]
        model.eval()
        found = accuracy(config, task, model, base, "validation")
        model.train()
        curve.append({"completions": step * group * prompts, "seconds": spent["seconds"], **found})
        print({k: round(v, 3) for k, v in curve[-1].items() if not k.endswith(("low", "high"))}, flush=True)
        spent["since"] = time.perf_counter()

    class Judge(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % config.evaluation.every == 0:
                judge(state.global_step)

    arguments = GRPOConfig(
        output_dir=str(scratch / "out"),
        max_steps=options.steps,
        per_device_train_batch_size=group * prompts,
        num_generations=group,
        max_completion_length=config.sampling.max_new_tokens,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        temperature=config.sampling.temperature,
        seed=config.seed,
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    rows = [{"prompt": example.prompt, **example.columns} for example in task.train]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=load_reward(task.reward),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokenizer,
        callbacks=[Judge()],
    )
    spent["since"] = time.perf_counter()
    judge(0)
    trainer.train()
    model.eval()
    return {
        "method": "grpo",
        "seed": config.seed,
        "learning_rate": options.learning_rate,
        "completions": options.steps * group * prompts,
        "seconds": spent["seconds"],
        "peak_memory_bytes": peak_memory_bytes(),
        "test": accuracy(config, task, model, base, "test"),
        "curve": curve,
    }


if __name__ == "__main__":
    main()
