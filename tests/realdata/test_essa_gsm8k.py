"""ESSA on real GSM8K rows with a random Qwen2 on disk: run, kill, resume, export, reload."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "gsm8k-smoke.yaml"
EVOLIGN = [sys.executable, "-c", "from evolign.cli.app import main; main()"]

pytestmark = pytest.mark.skipif(
    "EVOLIGN_DATA" not in os.environ, reason="EVOLIGN_DATA is not set: no GSM8K rows here"
)


def evolign(*arguments: object) -> None:
    done = subprocess.run([*EVOLIGN, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("seconds", "peak"))} for row in rows]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gsm8k") / "whole"
    evolign("run", RECIPE, "--out", out)
    return out


def test_a_run_killed_after_its_first_generation_resumes_to_the_same_bits(
    whole_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    run = subprocess.Popen([*EVOLIGN, "run", str(RECIPE), "--out", str(out)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "00000001.npz").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    evolign("resume", out)
    assert (out / "samples.jsonl").read_bytes() == (whole_run / "samples.jsonl").read_bytes()
    assert metrics(out) == metrics(whole_run)
    for folder in ("warm_start", "adapter"):
        name = f"{folder}/adapter_model.safetensors"
        assert (out / name).read_bytes() == (whole_run / name).read_bytes()


def test_the_result_says_what_was_measured_on_the_real_test_rows(whole_run: Path) -> None:
    result = json.loads((whole_run / "result.json").read_text())
    assert (result["generations"], result["num_examples"], result["split"]) == (2, 16, "test")
    assert set(result["baseline"]) == set(result["final"]) >= {"accuracy_greedy", "accuracy_sampled"}
    samples = [json.loads(line) for line in (whole_run / "samples.jsonl").read_text().splitlines()]
    assert all("Please reason step by step" in sample["prompt"][0]["content"] for sample in samples)


def test_the_exported_adapter_generates_in_peft_what_the_engine_generated(
    whole_run: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    evolign("export", whole_run, "--out", tmp_path / "exported")
    name = json.loads((tmp_path / "exported" / "adapter_config.json").read_text())["base_model_name_or_path"]
    base, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    model = PeftModel.from_pretrained(base, tmp_path / "exported").eval()
    samples = [json.loads(line) for line in (whole_run / "samples.jsonl").read_text().splitlines()]
    final = [s for s in samples if s.get("stage") == "final" and s["decoding"] == "greedy"]
    assert final
    for sample in final:
        text = tokenizer.apply_chat_template(sample["prompt"], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False)
        decoded = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert decoded == sample["completion"]
