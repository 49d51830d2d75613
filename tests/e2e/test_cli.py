"""Every command of `evolign`, on a finished run: what it prints, writes, refuses and returns."""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]
Substance = Callable[[Path], dict[str, Any]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def final_samples(run: Path, stage: str, decoding: str) -> list[dict[str, Any]]:
    """The kept samples of the final test."""
    rows = [row for row in lines(run / "samples.jsonl") if row.get("stage") == stage]
    found = [row for row in rows if row["decoding"] == decoding]
    assert len(found) == 3
    return found


def greedy(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """The completion that transformers' own generate gives."""
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_run_leaves_the_documented_directory_and_says_where_everything_is(reference: Path) -> None:
    assert {path.name for path in reference.iterdir() if path.name[0] != "."} == {
        "config.json", "provenance.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "warm_start",
        "adapter", "result.json", "log.txt",
    }  # fmt: skip
    output = (reference.parent / "output").read_text()
    assert "before" in output and "after" in output and "reward_greedy" in output
    assert f"Run directory: {reference}" in output and f"{reference / 'adapter'}" in output
    log = (reference / "log.txt").read_text()
    for line in ("Warm start: supervised fine-tuning on 8 solved rows.", "Stopped at generations = 4."):
        assert line in output and line in log
    result = json.loads((reference / "result.json").read_text())
    assert result["final"].keys() == result["baseline"].keys()
    assert {"method", "task", "seed", "generations", "completions", "generated_tokens", "seconds"} < set(
        result
    )
    provenance = json.loads((reference / "provenance.json").read_text())
    assert set(provenance["fingerprints"]) == {"model", "data", "reward"} and provenance["versions"]["torch"]


def test_the_config_of_a_finished_run_reproduces_it_bit_for_bit(
    reference: Path, tmp_path: Path, evolign: Callable[..., Any], substance: Substance
) -> None:
    process = evolign("run", reference / "config.json", "--out", tmp_path / "again")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    expected = substance(reference)
    assert {name: value == expected[name] for name, value in substance(tmp_path / "again").items()} == (
        dict.fromkeys(expected, True)
    )


def test_evaluating_a_run_gives_the_result_of_its_test(cli: Cli, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "completions.jsonl"
    status, output, errors = cli("evaluate", reference, "--out", out)
    assert (status, errors) == (0, "")
    for decoding in ("greedy", "sampled"):
        kept = final_samples(reference, "final", decoding)
        now = [row for row in lines(out) if row["decoding"] == decoding]
        assert len(now) == 6
        assert [row["completion"] for row in now[:3]] == [row["completion"] for row in kept]
        assert f"reward_{decoding}" in output
    final = json.loads((reference / "result.json").read_text())["final"]
    assert f"{final['reward_greedy']:.3f}" in output


def test_evaluating_the_starting_point_or_the_model_alone(cli: Cli, reference: Path, tmp_path: Path) -> None:
    """An adapter folder and a bare model bring no task of their own: it is given as overrides."""
    config = json.loads((reference / "config.json").read_text())
    task = [f"task.{name}={config['task'][name]}" for name in ("train", "validation", "test", "reward")]
    shared = ["--task", "rows", *task, "sampling.max_new_tokens=12", "seed=3"]
    out = tmp_path / "warm.jsonl"
    assert cli("evaluate", reference / "warm_start", *shared, "--out", out)[0] == 0
    baseline = final_samples(reference, "baseline", "sampled")
    now = [row for row in lines(out) if row["decoding"] == "sampled"]
    assert [row["completion"] for row in now[:3]] == [row["completion"] for row in baseline]

    out = tmp_path / "bare.jsonl"
    status, _, errors = cli(
        "evaluate", config["model"]["name"], *shared, "--split", "validation", "--out", out
    )
    assert (status, errors) == (0, "")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(config["model"]["name"])
    tokenizer = AutoTokenizer.from_pretrained(config["model"]["name"])
    rows = [row for row in lines(out) if row["decoding"] == "greedy"]
    assert len(rows) == 6 and all(row["prompt"].startswith("validation") for row in rows)
    for row in rows:
        assert row["completion"] == greedy(model, tokenizer, row["prompt"], 12)


def test_an_exported_adapter_says_in_peft_what_it_said_in_the_engine(
    cli: Cli, reference: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    status, output, _ = cli("export", reference, "--out", tmp_path / "adapter")
    assert status == 0 and f"Wrote the PEFT adapter to {tmp_path / 'adapter'}" in output
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
    tokenizer = AutoTokenizer.from_pretrained(settings["base_model_name_or_path"])
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    for row in final_samples(reference, "final", "greedy"):
        assert greedy(model, tokenizer, row["prompt"], 12) == row["completion"]
    assert "before" in (tmp_path / "adapter" / "README.md").read_text()


def test_a_merged_model_says_in_transformers_what_the_policy_said_in_the_engine(
    cli: Cli, reference: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    status, output, _ = cli("export", reference, "--merge", "--out", tmp_path / "merged")
    assert status == 0 and f"Wrote the merged model to {tmp_path / 'merged'}" in output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for row in final_samples(reference, "final", "greedy"):
        assert greedy(model, tokenizer, row["prompt"], 12) == row["completion"]


def test_check_passes_a_good_recipe_and_says_what_it_costs(cli: Cli, recipe: Path) -> None:
    status, output, errors = cli("check", recipe)
    assert (status, errors) == (0, "")
    found = {line.split()[1]: line for line in output.splitlines()}
    assert set(found) == {"settings", "data", "reward", "model", "prompt"}
    assert all(line.startswith("ok ") for line in found.values())
    assert "8 warmup, 12 train, 6 validation, 6 test rows, disjoint" in found["data"]
    assert "gold completions score 1.00, empty 0.00" in found["reward"]
    assert "adapter on k_proj, o_proj, q_proj, v_proj; " in found["model"]
    assert re.search(r"MiB for a search in \d+ dimensions; 20 completions a generation", found["model"])


def test_check_fails_a_reward_that_cannot_tell_right_from_wrong(
    cli: Cli, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat.py").write_text("def flat(prompts, **columns):\n    return [0.5] * len(prompts)\n")
    status, output, _ = cli("check", recipe, f"task.reward={tmp_path / 'flat.py'}:flat")
    [failed] = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert status == 1 and failed.split()[1] == "reward" and "gold ones no more (0.5)" in failed


def test_check_skips_a_model_that_cannot_be_fetched_from_here(cli: Cli, recipe: Path) -> None:
    status, output, _ = cli("check", recipe, "model.name=nobody/has-this-model")
    [skipped] = [line for line in output.splitlines() if line.startswith("SKIPPED")]
    assert status == 0 and skipped.split()[1] == "model"
    assert "'nobody/has-this-model' is no folder here and could not be fetched" in skipped


def test_check_tells_everything_that_is_wrong_at_once(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    status, output, _ = cli("check", recipe, "evolution.prompts_per_generation=13", f"model.name={tmp_path}")
    failed = {line.split()[1]: line for line in output.splitlines() if line.startswith("FAILED")}
    assert status == 1 and set(failed) == {"data", "model"}
    assert "\nSKIPPED  reward" in output
    assert "exceeds the 12 training prompts; use 12 or fewer" in failed["data"]
    assert "the folder needs config.json, *.safetensors and tokenizer files" in failed["model"]


def test_check_tells_a_model_that_is_no_language_model(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(recipe.parent / "model", model)
    (model / "config.json").write_text(json.dumps({"model_type": "vit"}))
    status, output, _ = cli("check", recipe, f"model.name={model}")
    [failed] = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert status == 1 and "is no causal language model" in failed


def test_list_names_everything_with_a_line_about_it(cli: Cli) -> None:
    from evolign.commands.list import registries

    status, output, _ = cli("list")
    assert status == 0
    for kind, entries in registries().items():
        assert f"{kind}:\n" in output
        assert all(f"  {name} " in output and about in output for name, about in entries.items())


def test_version_is_that_of_the_package(cli: Cli) -> None:
    try:
        version = importlib.metadata.version("evolign")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("evolign is run from its sources, not installed")
    status, output, _ = cli("--version")
    assert (status, output) == (0, f"evolign {version}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "{recipe}", "sed=3", "--out", "{tmp}/x"), "sed: unknown key; known here"),
        (("run", "{tmp}/none.yaml"), "cannot read the recipe '{tmp}/none.yaml'"),
        (
            ("run", "{recipe}", "--out", "{reference}"),
            "'{reference}' exists already; resume it with `evolign resume",
        ),
        (("resume", "{tmp}"), "'{tmp}' is not a run directory: it holds no config.json"),
        (
            ("evaluate", "{reference}", "--split", "dev"),
            "split = 'dev' must be one of train, validation, test",
        ),
        (("evaluate", "{reference}", "--task", "gsm"), "task.name = 'gsm': must be one of"),
        (("evaluate", "{tmp}/none"), "model.name = '{tmp}/none' is not a folder"),
        (("evaluate", "{reference}", "--out", "{tmp}/no/x.jsonl"), "there is no folder '{tmp}/no'; make it"),
        (("evaluate", "{tmp}/unfinished"), "is a run that is not finished; first `evolign resume"),
        (("evaluate", "{tmp}/broken"), "adapter_config.json is broken"),
        (
            ("export", "{reference}", "--out", "{tmp}"),
            "'{tmp}' exists already; give another --out or remove it",
        ),
        (("export", "{tmp}/unfinished", "--out", "{tmp}/y"), "is not finished; first `evolign resume"),
        (("check", "{recipe}", "seed"), "cannot read the override 'seed'; write it as a.b.c=value"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_1(
    cli: Cli, recipe: Path, reference: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    places = {"recipe": recipe, "reference": reference, "tmp": tmp_path}
    (tmp_path / "unfinished").mkdir()
    for name in ("config.json", "provenance.json"):
        shutil.copy(reference / name, tmp_path / "unfinished")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    status, output, errors = cli(*(argument.format(**places) for argument in arguments))
    assert status == 1 and output == ""
    assert errors.startswith("evolign: ") and words.format(**places) in errors
    assert "Traceback" not in errors


def test_the_real_process_prints_no_traceback_either(evolign: Callable[..., Any], reference: Path) -> None:
    process = evolign("resume", reference / "adapter")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors == f"evolign: '{reference / 'adapter'}' is not a run directory: it holds no config.json\n"


def test_schema_prints_the_schema_of_recipes(cli: Cli) -> None:
    written = Path(__file__).parents[2] / "recipes" / "schema.json"
    assert cli("schema") == (0, written.read_text(), "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_commands(shell: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"COMP_WORDS": "evolign tr", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "evolign tr"}
    settings = {"_EVOLIGN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for name, value in (words | settings).items():
        monkeypatch.setenv(name, value)
    assert "track" in cli()[1]


def test_track_sends_a_finished_run_once(cli: Cli, reference: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = shutil.copytree(reference, tmp_path / "run")
    status, output, errors = cli("track", run, "--to", "tensorboard")
    assert (status, errors) == (0, "") and f"tensorboard --logdir {tmp_path}" in output
    assert "holds all of the run" in cli("track", run, "--to", "tensorboard")[1]
    found = events.EventAccumulator(str(run / "tensorboard")).Reload()
    rows = lines(run / "metrics.jsonl")
    assert [e.step for e in found.Scalars("fitness_mean")] == [row["generation"] for row in rows[1:]]
    final = json.loads((run / "result.json").read_text())["final"]
    [told] = found.Scalars("final/reward_greedy")
    assert told.value == pytest.approx(final["reward_greedy"], rel=1e-6)  # scalars are float32
