"""Rewards that hang, die or leave children, and parents that are killed: nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolign.errors import ConfigError, RewardError
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scorer
from evolign.types import Example

EXAMPLES = [Example(id=str(i), prompt=f"p{i}", columns={"number": i}) for i in range(24)]
TEXTS = ["a" * i for i in range(24)]


def score(reward: str | Callable[..., Any], texts: list[str] = TEXTS, **options: Any) -> Scores:
    settings = {"workers": 2, "timeout_seconds": 20, **options}
    with Scorer(reward, **settings) as scorer:
        return scorer.score(EXAMPLES[: len(texts)], texts)


def gone(pid: int, within_seconds: float = 5.0) -> bool:
    """Whether the process ends; one that nobody has reaped yet (a zombie) has ended."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        if not shown.stdout.strip() or shown.stdout.strip().startswith("Z"):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def reward_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes the body of a reward `f(prompts, completions, **columns)`; returns its name."""

    def write(body: str) -> str:
        path = tmp_path / "my_reward.py"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(f"def f(prompts, completions, **columns):\n{lines}")
        return f"{path}:f"

    return write


@pytest.mark.parametrize(
    "hang",
    [
        "import time; time.sleep(1000)",
        "sum(range(10**12))  # holds Python's lock in C code",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); sum(range(10**12))",
        "import re; re.match('(a|a)*$', 'a' * 60 + 'b')",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_a_hanging_completion_alone_times_out(reward_file: Callable[[str], str], hang: str) -> None:
    reward = reward_file(f"if 'aaaaa' in completions:\n    {hang}\nreturn [1] * len(prompts)")
    scores = score(reward, timeout_seconds=0.6, chunk_size=4, failure_score=-1.0)
    assert scores.values.tolist() == [1] * 5 + [-1] + [1] * 18
    assert (scores.cost.timeouts, scores.cost.crashes) == (1, 0)


@pytest.mark.parametrize(
    "death",
    [
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)  # a segmentation fault",
        "import os; os.fork() and os._exit(1); import time; time.sleep(1000)  # leaves a child",
    ],
)
def test_a_completion_that_kills_its_worker_alone_counts_as_a_crash(
    reward_file: Callable[[str], str], death: str
) -> None:
    reward = reward_file(f"if 'aaaaa' in completions:\n    {death}\nreturn [1] * len(prompts)")
    scores = score(reward)
    assert scores.values.tolist() == [1] * 5 + [0] + [1] * 18
    assert (scores.cost.timeouts, scores.cost.crashes) == (0, 1)
    assert scores.seconds < 10  # nobody waited for the timeout


def test_a_worker_that_dies_between_two_calls_is_replaced_and_nobody_blamed() -> None:
    def pid(completions: list[str], **columns: Any) -> list[float]:
        return [float(os.getpid())] * len(completions)

    with Scorer(pid, workers=1, timeout_seconds=20) as scorer:
        first = int(scorer.score(EXAMPLES[:1], ["x"]).values[0])
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        second = scorer.score(EXAMPLES[:1], ["x"])
    assert second.values[0] != first and second.cost.crashes == 0


def test_a_reward_that_always_hangs_ends_within_the_promised_time() -> None:
    def hangs(completions: list[str], **columns: Any) -> list[float]:
        time.sleep(1000)
        return []

    texts = [str(i) for i in range(130)]
    with Scorer(hangs, workers=20, timeout_seconds=0.05, chunk_size=2) as scorer:
        scores = scorer.score([EXAMPLES[0]] * 130, texts)
    # 65 calls fail, then 64 halves: nothing more is tried, and every completion of a chunk counts.
    assert scores.cost.timeouts == 130 and (scores.values == 0).all()
    assert scores.seconds < 40  # 129 calls * 0.05 s / 20 workers, and 129 starts of a process


def test_a_slow_reward_is_no_failing_one_and_later_calls_are_smaller() -> None:
    def slow(completions: list[str], **columns: Any) -> list[float]:
        time.sleep(0.15 * len(completions))
        return [float(len(text)) for text in completions]

    texts = ["x" * i for i in range(1, 141)]
    with Scorer(slow, workers=20, timeout_seconds=0.45, chunk_size=4) as scorer:
        scores = scorer.score([EXAMPLES[0]] * 140, texts)
        assert (scores.values == range(1, 141)).all() and scores.cost.timeouts == 0
        assert scorer.chunk_size == 2
        again = scorer.score([EXAMPLES[0]] * 140, texts)
    assert (again.values == range(1, 141)).all() and again.seconds < scores.seconds


def test_children_that_a_reward_leaves_behind_are_ended(
    reward_file: Callable[[str], str], tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    reward = reward_file(
        "import subprocess\n"
        f"open({str(pid_file)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))\n"
        "return [1] * len(prompts)"
    )
    assert (score(reward, TEXTS[:1], workers=1).values == 1).all()
    assert gone(int(pid_file.read_text()))


PARENT = """
import sys
from evolign.rewards.scoring import Scorer
from evolign.types import Example
with Scorer(sys.argv[1], workers=2, timeout_seconds=1000, chunk_size=1) as scorer:
    scorer.score([Example("0", "p"), Example("1", "p")], ["a", "b"])
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.parametrize(
    "busy",
    [
        "import time; time.sleep(1000)",
        "sum(range(10**12))",
        "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); "
        "signal.signal(signal.SIGIO, signal.SIG_IGN); time.sleep(1000)",
    ],
    ids=["sleeps", "holds the lock", "blocks all signals"],
)
def test_workers_and_their_children_end_with_the_parent(
    reward_file: Callable[[str], str], tmp_path: Path, busy: str, ending: signal.Signals
) -> None:
    reward = reward_file(
        "import os, subprocess\n"
        'pids = f\'{os.getpid()} {subprocess.Popen(["sleep", "1000"]).pid}\'\n'
        f"open({str(tmp_path)!r} + f'/{{completions[0]}}.new', 'w').write(pids)\n"
        f"os.rename({str(tmp_path)!r} + f'/{{completions[0]}}.new',"
        f" {str(tmp_path)!r} + f'/{{completions[0]}}.pids')\n"
        f"{busy}"
    )
    parent = subprocess.Popen([sys.executable, "-c", PARENT, reward], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(files := list(tmp_path.glob("*.pids"))) < 2:
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert len(pids) == 4 and not any(gone(pid, within_seconds=0.05) for pid in pids)
    os.kill(parent.pid, ending)
    parent.wait(timeout=10)
    assert all(gone(pid) for pid in pids)


def test_a_worker_imports_nothing_heavy_of_its_own() -> None:
    program = (
        "import sys; import evolign.tasks, evolign.rewards.worker, evolign.rewards.loading\n"
        "heavy = {'numpy', 'torch', 'datasets', 'math_verify', 'dill'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


WRITE = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, {data!r})
        its = fd
    except OSError:
        pass
"""
WRITE_ON = "os.write(its, b'x' * 10**5)"


@pytest.mark.parametrize(
    ("data", "after", "words"),
    [
        (b"hello\n", "", "sent b'hello' over the socket"),
        (b"\xff\x00", "", "over the socket"),
        (b'{"values": [1, 1, 1, 1]}\n', "", r"sent {'values': \[1, 1, 1, 1\]} over the socket"),
        (b'{"token": "0", "ready": true}\n', "", "over the socket"),
        (b"[" * 9000 + b"\n", "", "over the socket"),
        (b"x" * 10**5, "while True: " + WRITE_ON, "bytes without an end"),
    ],
    ids=["a line", "no text", "a forged answer", "a forged token", "a deep one", "an endless one"],
)
def test_what_a_reward_writes_to_the_socket_itself_is_an_error_at_once(
    reward_file: Callable[[str], str], data: bytes, after: str, words: str
) -> None:
    reward = reward_file(f"{WRITE.format(data=data)}\n{after}\nreturn [1] * len(prompts)")
    started = time.monotonic()
    with pytest.raises(RewardError, match=words):
        score(reward, TEXTS[:4], workers=1)
    assert time.monotonic() - started < 15


def test_an_answer_that_comes_drop_by_drop_ends_with_the_timeout(reward_file: Callable[[str], str]) -> None:
    drip = WRITE.format(data=b"x") + "import time; time.sleep(0.05)"
    reward = reward_file("while True:\n" + "".join(f"    {line}\n" for line in drip.splitlines()))
    scores = score(reward, TEXTS[:1], workers=1, timeout_seconds=1)
    assert scores.cost.timeouts == 1 and scores.seconds < 10


def test_a_reward_gets_no_secret_that_it_was_not_given(
    reward_file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_SERVICE", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    monkeypatch.setenv("HF_HOME", "here")
    seen = "import os; found = [name for name, value in os.environ.items() if 'secret' in value]"
    reward = reward_file(
        f"{seen}; return [len(found) + 10 * (os.environ['HF_HOME'] == 'here')] * len(prompts)"
    )
    assert score(reward, TEXTS[:1], workers=1).values.tolist() == [10]
    assert score(reward, TEXTS[:1], workers=1, environment=["MY_SERVICE"]).values.tolist() == [11]
    asks = reward_file("import os; return [len(os.environ['MY_SERVICE'])] * len(prompts)")
    with pytest.raises(
        RewardError, match=r"MY_SERVICE is not handed on .*: add MY_SERVICE to scoring.environ"
    ):
        score(asks, TEXTS[:1], workers=1)
    assert score(asks, TEXTS[:1], workers=1, environment=["MY_SERVICE"]).values.tolist() == [6]


def test_a_worker_that_is_killed_while_it_starts_is_started_again(
    reward_file: Callable[[str], str], tmp_path: Path
) -> None:
    reward = reward_file("return [1] * len(prompts)")
    file = Path(reward.removesuffix(":f"))
    once, kill = f"open({str(tmp_path / 'once')!r}, 'x')", "os.kill(os.getpid(), signal.SIGKILL)"
    fair = file.read_text()
    guarded = f"import os, signal\ntry:\n    {once}\n    {kill}\nexcept FileExistsError:\n    pass\n{fair}"
    file.write_text(guarded)
    assert score(reward, TEXTS[:1], workers=1).values.tolist() == [1]
    (tmp_path / "once").unlink()
    with Scorer(reward, workers=1, timeout_seconds=20) as scorer:
        scorer.start()
    file.write_text(f"import os, signal\n{kill}\n{fair}")
    with pytest.raises(
        RewardError, match=r"3 processes in a row were killed by SIGKILL while .*out of memory"
    ):
        score(reward, TEXTS[:1], workers=2)
    file.write_text(f"import os\nos._exit(3)\n{fair}")
    with pytest.raises(ConfigError, match="must not exit or crash when it is imported"):
        score(reward, TEXTS[:1], workers=1)


def test_a_process_that_cannot_be_started_is_told(
    reward_file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    reward = reward_file("return [1] * len(prompts)")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(
        RewardError, match=r"no process could be started .*unavailable; use fewer scoring.work"
    ):
        score(reward, TEXTS[:1])


ODD = """
class Odd:
    def __float__(self): raise RuntimeError('no float')
    def __repr__(self): raise RuntimeError('no repr')
    def item(self): raise RuntimeError('no item')
    def tolist(self): raise RuntimeError('no list')
class Silent(Exception):
    def __str__(self): raise RuntimeError('no text')
class Short(list):
    def __len__(self): raise RuntimeError('no length')
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "import numpy; return [numpy.array([1, 2])] * len(prompts)",
            r"returned .*array.* \(list\), which raised ValueError when it was read",
        ),
        ("import numpy; return numpy.ones((len(prompts), 2))", r"\[1.0, 1.0\] \(list\) for completion 0"),
        ("import numpy; return numpy.float64(1)", "returned .*1.0.*; a reward returns"),
        (
            "return [Odd()] * len(prompts)",
            "returned .*<Odd .*, which raised RuntimeError when it was read: no item",
        ),
        ("return Odd()", "returned <Odd .*, which raised RuntimeError when it was read: no list"),
        ("return Short([1] * len(prompts))", "which raised RuntimeError when it was read: no length"),
        ("return (1 for _ in prompts)", "returned <generator"),
        ("return {i: 1 for i in range(len(prompts))}", "returned {0: 1, 1: 1"),
        ("return [1e308] * len(prompts)", r"returned 1e\+308 .* for completion 0; .*at most 1e15"),
        ("return [-1e16] * len(prompts)", "at most 1e15"),
        ("return [10**400] * len(prompts)", "for completion 0"),
        ("return [10**5000] * len(prompts)", "int that cannot be shown"),
        ("raise Silent", r"raised Silent: \(its text cannot be shown\)"),
        ("raise ValueError('x' * 10**7)", "raised ValueError: xxxx"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("raise ValueError(chr(0xd800))", "raised ValueError"),
    ],
)
def test_a_reward_that_returns_what_is_no_number_stops_the_run_and_is_told(
    reward_file: Callable[[str], str], body: str, words: str
) -> None:
    file = Path(reward_file(body).removesuffix(":f"))
    file.write_text(ODD + file.read_text())
    with pytest.raises(RewardError, match=rf"(?s)the reward '.*my_reward.py:f' .*{words}") as caught:
        score(f"{file}:f", TEXTS[:4], workers=1)
    assert len(str(caught.value)) < 10_000
