"""A run is what its record says, or it is refused: with what has changed, and with ways out that work."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import differences, substance
from small_runs import (
    contents,
    full_disk,
    in_this_process,
    small_resume,
    small_run,
    without_end,
)

from evolign import disk
from evolign.commands.evaluate import evaluate
from evolign.commands.export import export
from evolign.comparison.loading import read_runs
from evolign.config.recipe import load
from evolign.errors import ConfigError, EvolignError, RunError
from evolign.runs.arrays import pack, unpack
from evolign.runs.directory import read_rows
from evolign.trainers import checkpoints

Made = Callable[[str], Path]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch.setattr)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace what a JSON file holds."""
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(change(tree) or tree))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path, by: int = 1) -> None:
    os.truncate(path, path.stat().st_size - by)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("*.npz"))


def rewrite(run: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> None:
    """Write the newest checkpoint again, whole, with something else in it."""
    saved, arrays = unpack(newest(run).read_bytes())
    change(saved, arrays)
    newest(run).write_bytes(pack(saved, arrays))


def set_state(**values: Any) -> Callable[[Path], None]:
    return lambda run: rewrite(run, lambda saved, arrays: saved["state"].update(values))


def set_saved(**values: Any) -> Callable[[Path], None]:
    return lambda run: rewrite(run, lambda saved, arrays: saved.update(values))


def set_array(name: str, value: Any) -> Callable[[Path], None]:
    return lambda run: rewrite(run, lambda saved, arrays: arrays.update({name: np.array(value)}))


def set_config(section: str, name: str, value: Any) -> Callable[[Path], None]:
    return lambda run: edit(run / "config.json", lambda tree: tree[section].update({name: value}))


CHANGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a setting": (set_config("sampling", "max_new_tokens", 7), "sampling.max_new_tokens was 6 and is 7"),
    "a section": (set_config("evolution", "prompts_per_generation", 3), "was 4 and is 3"),
    "a limit by hand": (
        set_config("evolution", "generations", 9),
        r"was 3 and is 9 \(to change a limit: `evolign resume .* evolution.generations=",
    ),
    "warm weights": (
        lambda run: flip(run / "warm_start" / "adapter_model.safetensors"),
        "warm_start/adapter_model.safetensors was changed",
    ),
    "warm settings": (
        lambda run: flip(run / "warm_start" / "adapter_config.json"),
        "warm_start/adapter_config.json was changed",
    ),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
    "no samples": (lambda run: (run / "samples.jsonl").unlink(), "samples.jsonl is missing"),
    "half a row": (lambda run: cut(run / "metrics.jsonl", 30), r"metrics.jsonl holds [\d,]+ bytes of the"),
    "a figure": (lambda run: flip(run / "metrics.jsonl"), "metrics.jsonl was changed"),
    "provenance": (
        lambda run: edit(run / "provenance.json", lambda tree: tree["versions"].update(torch="9")),
        "provenance.json was changed",
    ),
    "no provenance": (lambda run: (run / "provenance.json").unlink(), "provenance.json is missing"),
}
FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another run": (set_saved(run="0" * 32), "not of this run, or was written by another run"),
    "a newer version": (set_saved(format=2), "written by a newer version of evolign"),
    "another version": (set_saved(more=1), r"by another version of evolign \(it differs in 'more'\)"),
    "a foreign key": (set_state(wings=2), "wings: unexpected"),
    "NaN": (set_state(seconds=float("nan")), "seconds: input should be a finite number"),
    "an infinite mean": (set_array("best_theta_D", [np.inf] * 32), "best_theta_D is not finite"),
    "a foreign array": (set_array("tail", [1.0]), "there is no tail"),
    "text": (set_array("sigma", "0.1"), "sigma holds no numbers"),
    "another shape": (set_array("best_theta_D", [1.0]), "another search space or strategy"),
    "an impossible generation": (set_state(generation=99), "it is of generation 99"),
    "a best to come": (set_state(best_generation=99), "best 99"),
}


@pytest.mark.parametrize("what", [*CHANGED, *FOREIGN])
def test_a_run_that_was_changed_is_refused_with_what_has_changed(
    what: str, made: Made, tmp_path: Path
) -> None:
    run = without_end(made("evolution"), tmp_path / "run")
    change, words = (CHANGED | FOREIGN)[what]
    change(run)
    before = contents(run)
    with pytest.raises(RunError, match=f"(?s){words}") as told:
        small_resume(run)
    assert contents(run) == before, "and nothing was touched"
    assert "evolign run" in str(told.value) or "install the version" in str(told.value)


@pytest.mark.parametrize(
    "name", ["config.json", "provenance.json", "raised.json", "result.json", "adapter/adapter_config.json"]
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 10**5, "nested more than 64 deep"),
        (b'{"a": ' * 80 + b"1" + b"}" * 80, "nested more than 64 deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number has more than 308 digits"),
        (b'{"a": "\xff"}', "the byte 0xff is not UTF-8"),
    ],
)
def test_json_that_breaks_readers_is_a_sentence_in_every_file_of_a_run(
    name: str, content: bytes, words: str, made: Made, tmp_path: Path
) -> None:
    run = without_end(made("evolution"), tmp_path / "run")
    (run / "adapter").mkdir()
    (run / name).write_bytes(content)
    with pytest.raises(EvolignError, match=words):
        if name == "adapter/adapter_config.json":
            evaluate(str(run / "adapter"))
        elif name == "result.json":
            _, [left_out] = read_runs([run])
            raise RunError(left_out.reason)
        else:
            small_resume(run)


def test_the_ways_out_of_a_changed_run_work(made: Made, tmp_path: Path) -> None:
    reference = substance(made("evolution"))
    run = without_end(made("evolution"), tmp_path / "copied back")
    CHANGED["a figure"][0](run)
    with pytest.raises(RunError, match=r"restore it from a copy, or start again with `evolign run") as told:
        small_resume(run)
    shutil.copy(made("evolution") / "metrics.jsonl", run)
    small_resume(run)
    assert not differences(run, reference)
    config = re.search(r"`evolign run (\S.*) --out NEW_DIR`", str(told.value))
    assert config is not None
    small_run(Path(shlex.split(config[1])[0]), tmp_path / "new")
    assert not differences(tmp_path / "new", reference)


def test_a_damaged_configuration_is_restored_from_the_provenance(made: Made, tmp_path: Path) -> None:
    run = without_end(made("evolution"), tmp_path / "run")
    cut(run / "config.json", 9)
    with pytest.raises(RunError, match=r"config.json': .*; restore it: provenance.json beside it holds it"):
        small_resume(run)
    config = json.loads((run / "provenance.json").read_text())["config"]
    (run / "config.json").write_text(json.dumps(config))
    small_resume(run)


@pytest.mark.parametrize("what", ["another run", "NaN"])
def test_without_a_foreign_checkpoint_the_one_before_it_goes_on(
    what: str, made: Made, tmp_path: Path
) -> None:
    run = without_end(made("evolution"), tmp_path / "run")
    FOREIGN[what][0](run)
    newest(run).unlink()
    small_resume(run)
    assert not differences(run, substance(made("evolution")))


def test_a_limit_is_raised_by_an_override_and_recorded(made: Made, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", made("evolution").parent / "evolution.json"
    shutil.copytree(made("evolution"), run)
    small_resume(run, "evolution.generations=5")
    [entry] = json.loads((run / "raised.json").read_text())
    assert entry == {
        "field": "evolution.generations", "from": 3, "to": 5, "after": "00000003.npz"
    }  # fmt: skip
    assert load(run / "config.json").evolution.generations == 5  # type: ignore[attr-defined]
    (run / "raised.json").unlink()
    with pytest.raises(RunError, match=r"evolution.generations was 3 and is 5"):
        small_resume(run)
    small_run(recipe, tmp_path / "longer", "evolution.generations=5")
    assert not differences(run, substance(tmp_path / "longer"))


def test_a_limit_of_training_is_raised_too_but_not_its_length(made: Made, tmp_path: Path) -> None:
    recipe, run = made("sft").parent / "sft.json", tmp_path / "run"
    small_run(recipe, run, "training.target=0")
    assert json.loads((run / "result.json").read_text())["stopped"] == "target = 0.0"
    small_resume(run, "training.target=null")
    found = differences(run, substance(made("sft")))
    record = {"/config.json", "/raised.json", "/result.json", "/checkpoints/checkpoint-2/evolign.json"}
    assert set(found) <= record, "all is equal but for the record of it"
    with pytest.raises(
        ConfigError, match=r"training.max_steps would make it another run; a resumed run takes"
    ):
        small_resume(run, "training.max_steps=9")


@pytest.mark.parametrize("method", ["evolution", "sft"])
def test_a_finished_run_without_its_result_makes_it_again(method: str, made: Made, tmp_path: Path) -> None:
    run, reference = tmp_path / "run", substance(made(method))
    for damage in (shutil.rmtree, lambda folder: flip(folder / "adapter_model.safetensors")):
        shutil.copytree(made(method), run, dirs_exist_ok=True)
        damage(run / "adapter")
        for refuse in (lambda: export(run, tmp_path / "out"), lambda: evaluate(str(run))):
            with pytest.raises(RunError, match=r"first `evolign resume "):
                refuse()
        small_resume(run)
        assert not differences(run, reference)


def test_what_only_reads_a_finished_run_changes_nothing_in_it(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made("evolution"), run)
    (run / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    small_resume(run)
    evaluate(str(run))
    export(run, tmp_path / "adapter")
    export(run, tmp_path / "merged", merge=True)
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before


@pytest.mark.parametrize("method", ["evolution", "sft"])
def test_a_full_disk_is_a_sentence_whoever_writes_and_its_way_out_works(
    method: str, made: Made, tmp_path: Path
) -> None:
    recipe, run = made(method).parent / f"{method}.json", tmp_path / "run"
    sizes = sorted({file.stat().st_size for file in made(method).rglob("*") if file.is_file()})
    for most in [size - 1 for size in sizes[1::4]]:
        with full_disk(most), pytest.raises(RunError, match=r"cannot (write|create).*(too large|a part of)"):
            small_resume(run) if run.exists() else small_run(recipe, run)
    small_resume(run)
    assert not differences(run, substance(made(method)))
    with full_disk(100), pytest.raises(RunError, match=r"cannot write to .*; nothing was left there"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_what_is_renamed_has_been_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked(source: Path, target: Path) -> None:
        assert {path.stat().st_ino for path in [source, *source.rglob("*")]} <= flushed
        replace(source, target)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr("os.replace", checked)
    with disk.replacing(tmp_path / "adapter") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_bytes(b"w")
        disk.write(folder / "settings", "s")
    assert tmp_path.stat().st_ino in flushed, "and so has the name"


@pytest.mark.parametrize("method", ["evolution", "sft"])
def test_the_umask_decides_who_may_read_whoever_writes(method: str, made: Made, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        small_run(made(method).parent / f"{method}.json", tmp_path / "run")
        export(tmp_path / "run", tmp_path / "run" / "merged", merge=True)
    finally:
        os.umask(before)
    modes = {path.is_dir(): set[int]() for path in tmp_path.rglob("*")}
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        modes[path.is_dir()].add(path.stat().st_mode & 0o777)
    assert modes == {True: {0o750}, False: {0o640}}


def test_a_clock_that_jumps_removes_no_newer_checkpoint(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = checkpoints.seal

    def in_the_past(run: Any, step: int, state: Any) -> None:
        seal(run, step, state)
        for path in run.checkpoints.iterdir():
            os.utime(path, (1e9 - step, 1e9 - step))

    monkeypatch.setattr("evolign.trainers.session.seal", in_the_past)
    recipe = made("sft").parent / "sft.json"
    small_run(recipe, tmp_path / "run", "evaluation.every=1")
    found = {path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert found == {"checkpoint-3", "checkpoint-4"}
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 5
