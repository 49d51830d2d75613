"""The run directory survives whatever happens: kills, full disks, broken files, two processes at once."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolign.config.recipe import dump, parse
from evolign.errors import RunError
from evolign.runs.directory import GROWING, KEPT_CHECKPOINTS, RunDir, read_config, read_rows
from evolign.runs.record import finished

ARRAYS = {"mean": np.arange(5.0), "count": np.array(3)}


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file can become longer than `most` bytes: it fails as on a full disk, whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """A run of three generations: rows in both growing files, and a checkpoint of each."""
    with RunDir.create(tmp_path / "run", '{"seed": 0}\n') as run:
        for generation in range(3):
            step(run, generation)
        yield run


def step(run: RunDir, generation: int) -> None:
    run.append("metrics.jsonl", [{"generation": generation}])
    run.append("samples.jsonl", [{"generation": generation, "sample": i} for i in range(2)])
    run.save(generation, {"generation": generation}, {**ARRAYS, "mean": ARRAYS["mean"] + generation})


def checkpoints(run: RunDir) -> list[Path]:
    """Newest first."""
    return sorted((run.path / "checkpoints").glob("*.npz"), reverse=True)


def generations(run: RunDir, name: str = "metrics.jsonl") -> list[int]:
    return [row["generation"] for row in run.read_rows(name)]


def restored(run: RunDir) -> tuple[int, np.ndarray]:
    """Generation and mean of the checkpoint that is restored, which must hold nothing else."""
    found = run.restore()
    run.rewind()
    assert found is not None
    path, state, arrays = found
    assert path.name == f"{state['generation']:08d}.npz"
    assert state.keys() == {"generation"} and arrays.keys() == ARRAYS.keys() and arrays["count"] == 3
    return state["generation"], arrays["mean"]


def test_a_checkpoint_comes_back_as_it_was_saved(run: RunDir) -> None:
    generation, mean = restored(run)
    assert generation == 2 and mean.dtype == np.float64 and mean.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert run.warnings == []


def test_the_newest_two_checkpoints_are_kept(run: RunDir) -> None:
    assert [path.name for path in checkpoints(run)] == ["00000002.npz", "00000001.npz"]
    assert KEPT_CHECKPOINTS == 2


def test_rows_after_the_checkpoint_are_cut_off(run: RunDir) -> None:
    run.append("metrics.jsonl", [{"generation": 3}])
    with (run.path / "samples.jsonl").open("a") as file:
        file.write('{"generation": 3, "sam')  # half a line: killed while writing
    assert generations(run, "samples.jsonl") == [0, 0, 1, 1, 2, 2]
    assert restored(run)[0] == 2
    assert generations(run) == [0, 1, 2]
    run.append("samples.jsonl", [{"generation": 3}])
    assert generations(run, "samples.jsonl") == [0, 0, 1, 1, 2, 2, 3]


def test_without_a_checkpoint_the_growing_files_are_emptied(run: RunDir) -> None:
    for path in checkpoints(run):
        path.unlink()
    assert run.restore() is None
    run.rewind()
    assert [(run.path / name).read_text() for name in GROWING] == ["", ""]
    assert run.warnings == []


def test_a_kill_between_writing_and_renaming_loses_nothing(run: RunDir) -> None:
    newest = checkpoints(run)[0]
    later = newest.with_name("00000003.npz.partial")
    later.write_bytes(newest.read_bytes()[:100])
    (run.path / "result.json.partial").write_text('{"final"')
    (run.path / "adapter.partial").mkdir()
    (run.path / "adapter.partial" / "old").write_text("of the attempt that was killed")
    assert restored(run)[0] == 2 and not finished(run.path)
    step(run, 3)
    with run.replacing(run.adapter) as folder:
        (folder / "new").write_text("whole")
    run.write_json("result.json", {"final": {}})
    assert restored(run)[0] == 3
    assert [path.name for path in run.adapter.iterdir()] == ["new"]
    assert not list(run.path.rglob("*.partial"))


def test_a_file_is_replaced_as_a_whole_or_not_at_all(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_text("note.txt", "before")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run.write_text("note.txt", "after")
    assert (run.path / "note.txt").read_text() == "before"
    run.write_text("note.txt", "after")
    assert (run.path / "note.txt").read_text() == "after"


def test_a_folder_is_replaced_only_when_its_block_ends_well(run: RunDir) -> None:
    with run.replacing(run.adapter) as folder:
        (folder / "weights").write_text("first")
    with pytest.raises(ZeroDivisionError), run.replacing(run.adapter) as folder:
        (folder / "weights").write_text("second")
        raise ZeroDivisionError
    assert (run.adapter / "weights").read_text() == "first"


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "a bit flipped in the state": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"not a checkpoint",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_corrupt_checkpoint_is_set_aside_for_the_one_before(run: RunDir, kind: str) -> None:
    newest = checkpoints(run)[0]
    newest.write_bytes(BROKEN[kind](newest.read_bytes()))
    generation, mean = restored(run)
    assert generation == 1 and mean[0] == 1.0
    assert generations(run) == [0, 1] and generations(run, "samples.jsonl") == [0, 0, 1, 1]
    [warning] = run.warnings
    assert "checkpoint 00000002.npz is corrupt" in warning and "set aside as 00000002.npz.corrupt" in warning
    step(run, 2)
    assert restored(run)[0] == 2 and len(run.warnings) == 1


def test_no_flipped_bit_is_restored_as_something_else(run: RunDir) -> None:
    """Every byte of a checkpoint in turn: it is found out, or (in what zip ignores) makes no difference."""
    newest = checkpoints(run)[0]
    data = newest.read_bytes()
    found_out = 0
    for position in range(len(data)):
        bit = 1 << position % 8
        newest.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        generation, mean = restored(run)
        assert mean.tolist() == [generation + i for i in range(5)], f"byte {position}"
        if generation == 1:
            found_out += 1
            newest.with_name(newest.name + ".corrupt").unlink()
            run.append("metrics.jsonl", [{"generation": 2}])
            run.append("samples.jsonl", [{"generation": 2, "sample": i} for i in range(2)])
    payload = sum(array.nbytes for array in ARRAYS.values())
    assert found_out > payload, "at least the bytes of the arrays are guarded"


def test_when_all_checkpoints_are_corrupt_the_way_out_is_a_new_run(run: RunDir) -> None:
    for path in checkpoints(run):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"all 2 checkpoints of .* are corrupt; start again with `evolign run"):
        run.restore()
    assert generations(run) == [0, 1, 2], "the metrics so far are still there"


def test_restoring_executes_nothing_from_a_checkpoint(run: RunDir, tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(made),)

    def with_pickle(data: bytes) -> bytes:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        buffer = BytesIO()
        np.savez(buffer, **{**arrays, "mean": np.array([Attack()], dtype=object)})
        return buffer.getvalue()

    newest = checkpoints(run)[0]
    attack = with_pickle(newest.read_bytes())
    newest.write_bytes(attack)
    assert restored(run)[0] == 1
    assert not made.exists() and "00000002.npz is corrupt" in run.warnings[0]
    with np.load(BytesIO(attack), allow_pickle=True) as file:  # proof that the file was an attack
        file["mean"]
    assert made.is_dir()


HOLDER = """
import sys, time
from evolign.runs.directory import RunDir
with RunDir.open(sys.argv[1]) as run:
    print("locked", flush=True)
    time.sleep(1000)
"""


def test_a_second_process_is_refused_and_a_killed_one_frees_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunDir.create(path, "{}").__exit__()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=r"run' is in use by another evolign process; wait for it or stop"):
            RunDir.open(path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with RunDir.open(path) as run:
        assert run.read_json("config.json") == {}


def test_a_run_is_locked_against_its_own_process_too(run: RunDir) -> None:
    with pytest.raises(RunError, match="in use by another"):
        RunDir.open(run.path)


def test_an_existing_directory_is_refused_and_left_alone(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for path in (run.path, tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(RunError, match=r"exists already; .*another --out, or remove it") as told:
            RunDir.create(path, "other")
        assert ("evolign resume" in str(told.value)) == (path == run.path), "only a run can be resumed"
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert run.read_json("config.json") == {"seed": 0} and (tmp_path / "file").read_text() == "a file"


def test_an_empty_directory_and_missing_parents_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with RunDir.create(path, "{}") as run:
            assert run.restore() is None and run.read_json("config.json") == {}


def test_what_is_no_run_directory_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunError, match=r"is not a run directory: it holds no config.json"):
            RunDir.open(path)
    assert list(tmp_path.iterdir()) == []


SAFE = r"Everything up to the last checkpoint is safe; free space or .* then `evolign resume"


def test_a_full_disk_is_told_with_the_way_out(run: RunDir) -> None:
    before = (run.path / "metrics.jsonl").read_text()
    with full_disk(len(before) + 3):
        with pytest.raises(RunError, match=f"(?s)run': File too large. {SAFE}"):
            run.append("metrics.jsonl", [{"generation": 3}])
        with pytest.raises(RunError, match=f"File too large. {SAFE}"):
            run.save(3, {"generation": 3}, ARRAYS)
    assert restored(run)[0] == 2 and (run.path / "metrics.jsonl").read_text() == before


def test_a_run_that_could_not_be_created_leaves_nothing_and_its_way_out_works(tmp_path: Path) -> None:
    with full_disk(3), pytest.raises(RunError, match=r"nothing has been run; give another --out"):
        RunDir.create(tmp_path / "run", '{"seed": 0}')
    assert not (tmp_path / "run").exists()
    for name in ("other", "run"):
        RunDir.create(tmp_path / name, '{"seed": 0}').__exit__()


def test_what_a_kill_left_of_a_run_that_never_began_is_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in (".lock", "config.json.partial"):
        (tmp_path / "run" / name).write_text("{")
    with RunDir.create(tmp_path / "run", '{"seed": 0}') as run:
        assert run.read_json("config.json") == {"seed": 0}


def test_a_directory_that_is_removed_during_the_run_is_told(run: RunDir) -> None:
    shutil.move(run.path, run.path.with_name("elsewhere"))
    for write in (
        lambda: run.append("metrics.jsonl", [{}]),
        lambda: run.save(3, {}, ARRAYS),
        lambda: run.write_json("result.json", {}),
        lambda: run.replacing(run.adapter).__enter__(),
    ):
        with pytest.raises(RunError, match=f"No such file or directory. {SAFE}"):
            write()
    shutil.move(run.path.with_name("elsewhere"), run.path)
    assert restored(run)[0] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_where_nothing_may_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"cannot create the run directory .*Permission denied"):
        RunDir.create(tmp_path / "run", "{}")


def test_a_parent_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot create the run directory .*Not a directory"):
        RunDir.create(tmp_path / "file" / "run", "{}")


def test_a_broken_json_file_is_told(run: RunDir) -> None:
    (run.path / "result.json").write_text('{"final": ')
    with pytest.raises(RunError, match=r"cannot read '.*result.json': line 1 is not JSON: Expecting value"):
        run.read_json("result.json")
    with pytest.raises(RunError, match=r"cannot read '.*provenance.json': .*No such file"):
        run.read_json("provenance.json")


def test_rows_hold_any_text_a_model_may_say(run: RunDir) -> None:
    said = [{"completion": text} for text in ("a\nb", "\u2028\x1c\x85\r", "\x00", "ä€😀", '"\\')]
    run.append("samples.jsonl", said)
    assert run.read_rows("samples.jsonl")[6:] == said
    assert read_rows(run.path / "missing.jsonl") == []


def test_a_broken_line_in_the_middle_of_a_file_is_told(run: RunDir) -> None:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    (run.path / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:-3], lines[2], ""]))
    with pytest.raises(RunError, match=r"cannot read '.*metrics.jsonl': line 2 is not JSON"):
        run.read_rows("metrics.jsonl")


@pytest.mark.parametrize(
    ("format", "sentence"),
    [
        (None, "has no format number that this version knows .*use the version that wrote it"),
        (2, "was written by a newer version of evolign .format 2; this version reads format 1"),
        ("1", "has no format number that this version knows .format '1'"),
    ],
)
def test_a_run_of_another_version_is_refused_in_a_sentence(
    tmp_path: Path, format: Any, sentence: str
) -> None:
    config = json.loads(dump(parse({})))
    assert read_config_of(tmp_path, config) == parse({})
    changed = {name: value for name, value in config.items() if name != "format"}
    with pytest.raises(RunError, match=sentence):
        read_config_of(tmp_path, changed if format is None else changed | {"format": format})


def read_config_of(path: Path, tree: dict[str, Any]) -> Any:
    (path / "config.json").write_text(json.dumps(tree))
    return read_config(path)


@pytest.mark.parametrize(("format", "sentence"), [(None, "no format number"), (2, "newer version")])
def test_a_checkpoint_of_another_version_is_refused_and_left_alone(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, format: Any, sentence: str
) -> None:
    monkeypatch.setattr("evolign.runs.directory.FORMAT", format)
    step(run, 3)
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=sentence):
        run.restore()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
