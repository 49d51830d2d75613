"""A run directory from somebody else is data: no link is followed, no code runs, no terminal is steered."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import contents, in_this_process, small_recipe, small_resume, small_run, without_end

from evolign import disk
from evolign.cli.app import main
from evolign.commands.evaluate import evaluate
from evolign.commands.export import export
from evolign.commands.run import load_trusted
from evolign.errors import ConfigError, RunError, visible
from evolign.runs import code
from evolign.runs.directory import RunDir
from evolign.runs.progress import Terminal
from evolign.trainers.checkpoints import SEAL, seal

Made = Callable[[str], Path]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch.setattr)


PLACES = (
    ".lock", "log.txt", "metrics.jsonl", "config.json.partial", "result.json.partial", "checkpoints/mine",
    "checkpoints/00000004.npz.partial", "adapter/secret.txt", "adapter/adapter_model.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_in_a_run_directory_is_refused_and_never_followed(
    kind: str, place: str, made: Made, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    finished = tmp_path / "finished"
    shutil.copytree(made("evolution"), finished)
    for run in (finished, without_end(made("evolution"), tmp_path / "run")):
        (run / place).unlink(missing_ok=True)
        (run / place).parent.mkdir(exist_ok=True)
        if kind == "link":
            (run / place).symlink_to(mine)
        else:
            os.mkfifo(run / place)
    for use in (
        lambda: small_resume(tmp_path / "run"),
        lambda: export(finished, tmp_path / "out"),
        lambda: evaluate(str(finished)),
    ):
        with pytest.raises(RunError, match=f"holds '{place}', which is neither a file nor a folder"):
            use()
    assert mine.read_text() == "years of work" and not (tmp_path / "out").exists()


def test_a_linked_folder_is_refused_as_well(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("adapter", "checkpoints", "warm_start", "model"):
        run = tmp_path / name
        shutil.copytree(made("evolution"), run)
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(tmp_path / "mine")
        with pytest.raises(RunError, match=f"holds '{name}'"):
            small_resume(run, "evolution.generations=9")
        with pytest.raises(RunError, match=f"holds '{name}'"):
            export(run, tmp_path / "out")
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("write", [disk.write, disk.append, disk.read, disk.lock])
def test_no_link_is_followed_even_if_it_appears_later(write: Callable[..., Any], tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", tmp_path / "run" / "link"
    mine.write_text("years of work")
    link.parent.mkdir()
    link.symlink_to(mine)
    arguments = (b"new",) if write in (disk.write, disk.append) else ()
    if write is disk.write:
        write(link, *arguments)
        assert not link.is_symlink() and link.read_bytes() == b"new", "the link was replaced"
    else:
        with pytest.raises(OSError, match="it is a link, which evolign does not follow"):
            write(link, *arguments)
    assert mine.read_text() == "years of work"


def test_a_second_name_of_a_file_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    os.link(tmp_path / "mine", tmp_path / "log.txt")
    with Terminal(tmp_path / "log.txt") as terminal:
        terminal.say("theirs")
    assert (tmp_path / "mine").read_text() == "mine\n"
    assert (tmp_path / "log.txt").read_text().endswith("theirs\n")


def test_a_new_run_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="holds 'checkpoints', which is neither"):
        RunDir.create(tmp_path / "run", "{}")


HOSTILE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
def share(prompts, completions, **columns):
    return [0.5] * len(completions)
"""


@pytest.fixture
def theirs(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A stranger's finished run whose reward leaves a marker, and the marker."""
    run, marker = tmp_path / "theirs", tmp_path / "marker"
    shutil.copytree(made("evolution"), run)
    (tmp_path / "reward.py").write_text(HOSTILE.format(marker=str(marker)))
    for name in ("config.json", "provenance.json"):
        tree = json.loads((run / name).read_text())
        tree.get("config", tree)["task"]["reward"] = f"{tmp_path / 'reward.py'}:share"
        (run / name).write_text(json.dumps(tree))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return run, marker


def test_code_that_a_run_directory_names_runs_only_with_trust(theirs: tuple[Path, Path]) -> None:
    run, marker = theirs
    (run / "result.json").rename(run / "kept")
    for use in (
        lambda: evaluate(str(run)),
        lambda: small_resume(run),
        lambda: load_trusted(run / "config.json", [], False),
        lambda: evaluate(str(run / "warm_start"), like=str(run)),
    ):
        with pytest.raises(RunError, match=r"names code, task.reward = .*; read it, .* add --trust"):
            use()
    assert not marker.exists()
    evaluate(str(run), overrides=["task.reward=rouge_l"])
    assert not marker.exists(), "what the user names instead runs"
    evaluate(str(run), trust=True)
    assert marker.read_text() == "ran"
    evaluate(str(run))
    reward = Path(json.loads((run / "config.json").read_text())["task"]["reward"].rpartition(":")[0])
    reward.write_text(reward.read_text() + "# changed\n")
    with pytest.raises(RunError, match="names code"):
        evaluate(str(run))


def test_ones_own_runs_need_no_trust_but_the_reward_must_be_the_same(made: Made, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "evolution")
    small_run(recipe, tmp_path / "mine")
    evaluate(str(tmp_path / "mine"))
    run = without_end(tmp_path / "mine", tmp_path / "run")
    reward = tmp_path / "reward.py"
    before = reward.read_text()
    reward.write_text(before + "# better\n")
    with pytest.raises(RunError, match=r"the reward differs from what the run in .* was started with"):
        small_resume(run, trust=True)
    reward.write_text(before)
    small_resume(run)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"task": {"reward": "math_answer"}}, 0),
        ({"task": {"reward": "classifier:./folder"}}, 0),
        ({"task": {"reward": "(live function f)"}}, 0),
        ({"task": {}}, 0),
        ({"task": {"reward": "os:system"}}, 1),
        ({"task": {"reward": "a.b.c"}}, 1),
        ({"task": {"reward": "missing.py:f"}}, 1),
        ({"task": {"reward": None, "rewards": [{"name": "math_answer"}, {"name": "a.b"}]}}, 1),
        ({"model": {"name": "some/model", "trust_remote_code": True}}, 1),
        ({"task": {"reward": "x.py:f"}, "model": {"name": "m", "trust_remote_code": True}}, 2),
    ],
)
def test_what_names_code(
    tree: dict[str, Any], named: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert len(list(code._named(tree))) == named
    if named:
        with pytest.raises(RunError, match="names code"):
            code.require("run", tree, trust=False)
    code.require("run", tree, trust=True)
    code.require("run", tree, trust=False)
    if named:
        assert not list(tmp_path.rglob("*.partial")) and len(list(tmp_path.rglob("trusted/*"))) == named


def test_an_override_of_the_reward_does_not_trust_the_rewards_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    tree = {"task": {"reward": None, "rewards": [{"name": "a.b"}]}}
    with pytest.raises(RunError, match=r"names code, task.rewards = 'a.b'"):
        code.require("run", tree, trust=False, typed=["task.reward=null"])
    code.require("run", tree, trust=False, typed=["task.rewards=[{name: a.b}]"])


class Attack:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_as_an_adapter_is_refused_in_a_sentence(made: Made, tmp_path: Path, zipped: bool) -> None:
    import torch

    adapter = tmp_path / "adapter"
    shutil.copytree(made("evolution") / "adapter", adapter)
    (adapter / "adapter_model.safetensors").unlink()
    if zipped:
        torch.save({"x": Attack(tmp_path / "ran")}, adapter / "adapter_model.bin")
    else:
        (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(ConfigError, match=r"adapter_model.bin holds more than tensors, .* convert it to"):
        evaluate(str(adapter), overrides=[f"model.name={made('evolution').parent / 'model'}"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_foreign_state_of_a_trainer_is_refused_in_a_sentence(name: str, made: Made, tmp_path: Path) -> None:
    import torch

    run = without_end(made("sft"), tmp_path / "run")
    with RunDir.open(run) as opened:  # the stranger seals it, so that no hash finds it out
        folder = opened.checkpoints / "checkpoint-2"
        saved = json.loads((folder / SEAL).read_text())
        (folder / SEAL).unlink()
        if name == "trainer_state.json":
            (folder / name).write_text('{"global_step": 2, "wings": 1}')
        else:
            torch.save({"x": Attack(tmp_path / "ran")}, folder / name)
        opened.restore()
        seal(opened, 2, saved["state"])
    shutil.rmtree(run / "checkpoints" / "checkpoint-4")
    with pytest.raises(RunError, match=r"checkpoint-2' is not of this run.*; remove it to go on"):
        small_resume(run)
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(run / "checkpoints" / "checkpoint-2")
    small_resume(run)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\x07\r", r"a\x1b[2Jb\x07\r"),
        ("\x9b31m", r"\x9b31m"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("\u202eexe.txt", r"\u202eexe.txt"),
        ("line\n\tnext ä€😀 👩\u200d🚀", "line\n\tnext ä€😀 👩\u200d🚀"),
    ],
)
def test_what_would_steer_a_terminal_is_visible(
    text: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visible(text) == shown
    with Terminal(tmp_path / "log.txt") as terminal:
        terminal.say(text)
    assert shown in (tmp_path / "log.txt").read_text()
    assert shown.replace("\t", " " * 8) in capsys.readouterr().out, "rich expands tabs"


def test_names_of_others_are_printed_visibly_by_every_command(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "red\x1b[31m\udcff"
    shutil.copytree(made("evolution"), run)
    for arguments in (
        ["resume", run],
        ["resume", tmp_path / "none\x1b[31m\udcff"],
        ["evaluate", run],
        ["export", run, "--out", tmp_path / "out\x1b[31m\udcff"],
        ["compare", f"label\x1b[31m\udcff={run}", "--out", tmp_path / "page.html"],
    ):
        monkeypatch.setattr(sys, "argv", ["evolign", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *args: None)
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capfd.readouterr()
        said = output + errors + (ended.value.code if isinstance(ended.value.code, str) else "")
        assert "\x1b[31m" not in said and "\udcff" not in said and "Traceback" not in said, arguments
    assert contents(run) == contents(made("evolution"))
