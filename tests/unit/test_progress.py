"""What a run shows while it works: phases below the bar of a terminal, and as lines elsewhere."""

import io
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from evolign.runs import progress as display
from evolign.runs.phases import Phases
from evolign.runs.phases import clock as hours
from evolign.runs.progress import Progress, Silent, Terminal


class Clock:
    """Time that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_phase_tells_what_is_done_how_fast_and_what_is_left(clock: Clock) -> None:
    phases = Phases()
    assert str(phases) == ""
    with phases.phase("validation"), phases.phase("writing", 4000, "tokens") as writing:
        clock.now += 4
        assert str(phases) == "validation, 0:00:04 · writing 0/4,000 tokens, 0:00:04"
        writing.advance(1000, 1000)
        assert str(phases) == (
            "validation, 0:00:04 · writing 1,000/3,000 tokens, 250/s, 0:00:04, 0:00:08 left"
        )
        with phases.phase("scoring", unit="completions") as scoring:
            scoring.advance()
            assert str(phases).endswith("scoring 1 completions, 0:00:00")
    assert str(phases) == ""


def test_a_phase_ends_with_an_exception() -> None:
    phases = Phases()
    with pytest.raises(KeyboardInterrupt), phases.phase("validation"):
        raise KeyboardInterrupt
    assert str(phases) == ""


def test_without_a_terminal_a_long_phase_is_a_line_after_ten_seconds_and_then_every_thirty(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(tmp_path / "log.txt")

    def lines(seconds: float) -> int:
        clock.now += seconds
        terminal._break_silence(clock.now)
        return len(capsys.readouterr().out.splitlines())

    assert lines(60) == 0, "nothing is under way"
    terminal.say("sigma = 0.1")
    capsys.readouterr()
    with terminal.phase("reading", 96, "tokens"):
        assert [lines(seconds) for seconds in (9, 1, 29, 1, 29, 1)] == [0, 1, 0, 1, 0, 1]
        terminal.say("a line")
        capsys.readouterr()
        assert [lines(seconds) for seconds in (9, 1)] == [0, 1]
    assert (tmp_path / "log.txt").read_text().count("\n") == 2, "the log has what was said"


def test_a_phase_that_blocks_is_seen_and_the_thread_that_watches_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "FIRST_SILENCE", 0.0)
    monkeypatch.setattr(display, "TICK", 0.01)
    with (
        Terminal(tmp_path / "log.txt") as terminal,
        redirect_stdout(io.StringIO()),  # as a warm start does, against what TRL prints
        terminal.phase("warm start", 6, "steps"),
    ):
        for _ in range(500):
            time.sleep(0.01)
            if out := capsys.readouterr().out:
                break
    assert out.startswith("  warm start 0/6 steps, 0:00:00")
    assert not any(thread.name == "evolign-progress" for thread in threading.enumerate())


def test_a_terminal_shows_the_phases_below_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Terminal(tmp_path / "log.txt") as terminal, terminal.phase("final test", 2, "policies"):
        terminal._bar.refresh()
    assert "final test 0/2 policies" in capsys.readouterr().out


def test_a_progress_of_ones_own_need_not_show_phases() -> None:
    class Own(Progress):
        def say(self, text: str) -> None: ...
        def begin(self, total: int, max_minutes: float | None = None) -> None: ...
        def record(self, row: Any) -> None: ...

    for progress in (Own(), Silent()):
        with progress.phase("scoring", 3) as phase:
            phase.advance()
        assert (phase.name, phase.done, phase.total) == ("scoring", 1, 3)
    assert hours(3725.9) == "1:02:05"
