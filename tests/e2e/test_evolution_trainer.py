"""EvolutionTrainer beside GRPOTrainer: the same script, and the same kinds of things come back."""

import json
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import hub_server
import pytest
from datasets import Dataset
from grpo_rewards import REWARDS
from light_rewards import length
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig, GRPOTrainer

from evolign import embedded
from evolign.errors import RunError
from evolign.trl import EvolutionConfig, EvolutionTrainer

MODEL = str(embedded.path("tiny-random-qwen2"))
ROWS = [{"prompt": f"{x} + {y} =", "letter": "aeiou"[x % 5]} for x in range(4) for y in range(5)]
CHAT = [
    {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": str(i)} for i, row in enumerate(ROWS)
]
GREEDY = {"decoding": ["greedy"]}
SMALL: dict[str, Any] = {
    "fitness": "reward",
    "population": 4,
    "sigma": 0.1,
    "use_cpu": True,
    "max_completion_length": 4,
    "num_generations": 2,
    "recipe": {"evaluation": GREEDY},
}


def script(config: Any, trainer_class: Any, out: Path) -> tuple[Any, TrainOutput, dict[str, float]]:
    """A GRPO script; its two classes are the lines that change."""
    args = config(
        output_dir=str(out),
        max_steps=2,
        num_generations=2,
        per_device_train_batch_size=8,
        max_completion_length=4,
        reward_weights=[1.0, 0.5, 0.01, 0.0, 1.0],
        logging_steps=1,
        use_cpu=True,
        seed=1,
    )
    trainer = trainer_class(
        model=MODEL,
        reward_funcs=[*REWARDS],
        args=args,
        train_dataset=Dataset.from_list(CHAT[:16]),
        eval_dataset=Dataset.from_list(CHAT[16:]),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    output = trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(str(out / "saved"))
    return trainer, output, metrics


def test_the_same_script_gives_the_same_kinds_of_things_with_both_trainers(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "population": 8,
        "sigma": 0.01,
        "recipe": {"fitness": {"steps": 1}, "evaluation": GREEDY},
    }
    ours = script(partial(EvolutionConfig, **small), EvolutionTrainer, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own
        plain = partial(GRPOConfig, bf16=False, disable_tqdm=True)
        theirs = script(plain, GRPOTrainer, tmp_path / "theirs")
    adapters = []
    for (trainer, output, metrics), name in ((ours, "ours"), (theirs, "theirs")):
        assert isinstance(output, TrainOutput)
        assert output.global_step == trainer.state.global_step == 2
        rates = {"train_samples_per_second", "train_steps_per_second"}
        assert {"train_runtime", "epoch", *rates} <= output.metrics.keys()
        assert {"eval_reward", "eval_runtime"} <= metrics.keys()
        logged = [row for row in trainer.state.log_history if "reward" in row]
        assert [row["step"] for row in logged] == [1, 2]
        shared = {"num_tokens", "completions/clipped_ratio", "frac_reward_zero_std", "epoch"}
        shared |= {f"rewards/{f.__name__}/{kind}" for f in REWARDS for kind in ("mean", "std")}
        assert all(shared | {"ascii_share"} <= row.keys() for row in logged)
        saved = tmp_path / name / "saved"
        files = {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
        assert files <= {path.name for path in saved.iterdir()}
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), saved)
        adapters.append({k: v.shape for k, v in tuned.state_dict().items() if "lora_" in k})
    assert adapters[0] == adapters[1] != {}
    kept = [json.loads(line) for line in (tmp_path / "ours/samples.jsonl").read_text().splitlines()]
    assert all(
        {"said", "gold", "reward/format_reward", "reward/language_reward"} <= row.keys() for row in kept
    )
    assert math.isnan(ours[1].training_loss)


class Events(TrainerCallback):
    """Notes what is called, and asks to stop after `last` steps."""

    def __init__(self, last: int = -1) -> None:
        self.last, self.seen, self.logs = last, [("", 0)], []  # type: ignore[var-annotated]
        for event in ("train_begin", "epoch_begin", "evaluate", "save", "epoch_end", "train_end"):
            setattr(self, f"on_{event}", partial(self._see, event))

    def _see(self, event: str, args: Any, state: TrainerState, control: Any, **more: Any) -> None:
        self.seen.append((event, state.global_step))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **more: Any) -> None:
        self.logs.append(logs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        control.should_training_stop = state.global_step == self.last


def evolved(out: Path, callback: Events, **arguments: Any) -> EvolutionTrainer:
    args = EvolutionConfig(
        output_dir=str(out),
        generation_batch_size=12,
        logging_steps=2,
        eval_strategy="steps",
        save_steps=2,
        **SMALL | {"max_steps": 3} | arguments,
    )
    return EvolutionTrainer(MODEL, length, args, ROWS, callbacks=[callback])


def test_callbacks_are_called_and_a_run_that_one_stops_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut, rest = Events(), Events(last=1), Events()
    trainer = evolved(tmp_path / "whole", whole)
    trainer.train()
    assert whole.seen[1:] == [
        *[("train_begin", 0), ("epoch_begin", 0), ("evaluate", 0)],
        *[("evaluate", 2), ("save", 2), ("epoch_end", 3), ("evaluate", 3), ("save", 3), ("train_end", 3)],
    ]
    stopped = evolved(tmp_path / "cut", cut)
    assert stopped.train().global_step == 1
    assert cut.seen[-1] == ("train_end", 1)
    stopped.save_model()
    assert (tmp_path / "cut/adapter_model.safetensors").is_file()
    assert not (tmp_path / "cut/result.json").exists()
    with pytest.raises(RunError, match=r"holds a run; continue it with train\(resume_from_checkpoint=True\)"):
        stopped.train()
    resumed = evolved(tmp_path / "cut", rest)
    assert resumed.train(resume_from_checkpoint=True).global_step == 3
    assert rest.seen[1] == ("train_begin", 1)
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()

    def rewards(trainer: EvolutionTrainer) -> list[tuple[int, float]]:
        logged = trainer.state.log_history
        return [(row["step"], row.get("reward", row.get("eval_reward"))) for row in logged[:-1]]

    assert [step for step, _ in rewards(trainer)] == [0, 2, 2, 3]
    assert rewards(resumed) == rewards(trainer)
    assert whole.logs == trainer.state.log_history


@pytest.mark.parametrize(
    ("where", "message"),
    [(True, "holds no run to resume"), ("elsewhere", "holds no run to resume")],
)
def test_a_run_that_does_not_exist_is_not_resumed(where: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        evolved(tmp_path / "none", Events()).train(resume_from_checkpoint=where)


def test_the_result_is_pushed_with_its_card_and_the_token_is_written_nowhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    token = "hf_" + "secret" * 5
    with hub_server.running() as hub, caplog.at_level("DEBUG"):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", hub.url, raising=False)
        trainer = evolved(tmp_path / "mine", Events(), hub_token=token, push_to_hub=True, max_steps=1)
        with pytest.raises(RunError, match=r"no result yet; call train\(\) first"):
            trainer.push_to_hub()
        trainer.train()
        trainer.push_to_hub("Again", dataset_name="owner/rows", tags="mine", blocking=False).result()
    assert [(made["name"], made["visibility"]) for made in hub.repositories] == [("mine", "private")] * 3
    assert hub.messages == ["End of training", "Again"]
    assert hub.tokens == {f"Bearer {token}"}
    adapter = tmp_path / "mine/adapter"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert hub.files[name] == (adapter / name).read_bytes()
    assert json.loads(hub.files["tokenizer_config.json"])
    card = hub.files["README.md"].decode()
    assert "owner/rows" in card and "- mine" in card and "| reward_greedy |" in card
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    shown = "".join(capfd.readouterr()) + caplog.text + repr(trainer.args)
    assert token.encode() not in written and token not in shown
