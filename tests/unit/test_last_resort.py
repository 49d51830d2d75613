"""What nobody expected, on the command line: a sentence, a log and an exit status, never a traceback."""

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from evolign.cli import app


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`fails(command, arguments, error)` is the exit status and standard error where the command raises."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fails(target: str, arguments: list[str], error: BaseException) -> tuple[Any, str]:
        def command(*given: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(target, command)
        monkeypatch.setattr("signal.signal", lambda *given: None)  # this process keeps its own handlers
        monkeypatch.setattr(sys, "argv", ["evolign", *arguments])
        with pytest.raises(SystemExit) as caught:
            app.main()
        return caught.value.code, capsys.readouterr().err

    return fails


def test_what_nobody_expected_is_a_sentence_and_its_traceback_lies_in_a_file(
    fails: Any, tmp_path: Path
) -> None:
    status, told = fails("evolign.commands.list.registries", ["list"], KeyError("\x1b[31mq\ud800"))
    assert status == 70
    assert told.startswith("evolign: KeyError: ") and "Traceback (most" not in told
    assert "mistake in evolign; please report it" in told
    [log] = tmp_path.glob("evolign-*.log")
    assert told.endswith(f"The traceback is in {log}\n")
    assert "Traceback (most recent call last)" in log.read_text() and "KeyError" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_log_of_a_run_takes_the_traceback_but_not_through_a_link(fails: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    for error, expected, words in (
        (RecursionError("deep"), 70, "mistake in evolign"),
        (OSError(28, "No space left on device", "x"), 1, "the system refused: [Errno 28] No space left"),
        (MemoryError(), 1, "there was not enough memory"),
    ):
        status, told = fails("evolign.commands.run.resume", ["resume", str(run)], error)
        assert status == expected and words in told
        assert f"The traceback is in {run / 'log.txt'}" in told
        assert type(error).__name__ in (run / "log.txt").read_text()
    (tmp_path / "precious").write_text("mine")
    (run / "log.txt").unlink()
    (run / "log.txt").symlink_to(tmp_path / "precious")
    status, told = fails("evolign.commands.run.resume", ["resume", str(run)], KeyError("x"))
    assert status == 70 and "none could be written" in told
    assert (tmp_path / "precious").read_text() == "mine"
