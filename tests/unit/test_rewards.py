"""Rewards of every kind, good and bad, run in worker processes that can be killed."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolign.errors import ConfigError, RewardError
from evolign.rewards import REWARDS
from evolign.rewards.loading import load_reward
from evolign.rewards.named import gsm8k_answer, math_answer
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scorer
from evolign.types import Example

EXAMPLES = [Example(id=str(i), prompt=f"p{i}", columns={"number": i}) for i in range(24)]
TEXTS = ["a" * i for i in range(24)]


def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The good reward: how long the completions are."""
    return [float(len(completion)) for completion in completions]


def score(reward: str | Callable[..., Any], texts: list[str] = TEXTS, **options: Any) -> Scores:
    settings = {"workers": 2, "timeout_seconds": 20, **options}
    with Scorer(reward, **settings) as scorer:
        return scorer.score(EXAMPLES[: len(texts)], texts)


@pytest.fixture
def reward_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes the body of a reward `f(prompts, completions, **columns)`; returns its name."""

    def write(body: str) -> str:
        path = tmp_path / "my_reward.py"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(f"def f(prompts, completions, **columns):\n{lines}")
        return f"{path}:f"

    return write


def test_values_come_back_in_order_for_any_number_of_workers_and_any_chunk_size() -> None:
    for workers, chunk_size in ((1, 100), (3, 1), (2, 5)):
        scores = score(length, workers=workers, chunk_size=chunk_size)
        assert scores.values.dtype == np.float64
        assert scores.values.tolist() == list(range(24))
        assert (scores.cost.timeouts, scores.cost.crashes) == (0, 0)


def test_a_reward_gets_the_columns_and_what_trl_passes() -> None:
    def seen(prompts: Any, completions: Any, number: Any, **columns: Any) -> list[float]:
        plain = prompts == ["p", [{"role": "user", "content": "q"}]]
        wrapped = completions == ["x", [{"role": "assistant", "content": "y"}]]
        logs = columns.keys() == {"trainer_state", "log_metric", "log_extra"}
        return [float(plain and wrapped and number == [7, None] and logs)] * 2

    examples = [
        Example(id="0", prompt="p", columns={"number": 7}),
        Example(id="1", prompt=[{"role": "user", "content": "q"}]),
    ]
    with Scorer(seen, workers=1, timeout_seconds=5) as scorer:
        assert scorer.score(examples, ["x", "y"]).values.tolist() == [1, 1]


def test_equal_completions_of_one_example_are_scored_once() -> None:
    def size_of_call(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(completions))] * len(completions)

    one, other = EXAMPLES[:2]
    with Scorer(size_of_call, workers=1, timeout_seconds=5) as scorer:
        scores = scorer.score([one, one, other, one], ["x", "x", "x", "y"])
    assert scores.values.tolist() == [3, 3, 3, 3]


def test_none_means_not_applicable() -> None:
    scores = score(lambda completions, **_: [None if c == "" else 1 for c in completions])
    assert math.isnan(scores.values[0]) and (scores.values[1:] == 1).all()


def test_lambdas_closures_and_objects_with_a_call_travel() -> None:
    factor = 3

    class Times:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return [len(completion) * self.factor for completion in completions]

    assert score(lambda completions, **_: [len(c) * factor for c in completions]).values[5] == 15
    assert score(Times(4)).values[5] == 20


def test_arrays_and_coroutines_are_accepted_as_by_trl() -> None:
    async def slow(completions: list[str], **columns: Any) -> list[float]:
        import asyncio

        await asyncio.sleep(0.001)
        return [1.0] * len(completions)

    def array(completions: list[str], **columns: Any) -> np.ndarray:
        return np.array([len(completion) for completion in completions], dtype=np.float32)

    assert (score(slow).values == 1).all()
    assert score(array).values.tolist() == list(range(24))


def test_a_function_of_the_main_script_travels_without_running_the_script_again(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from evolign.rewards.scoring import Scorer\n"
        "from evolign.types import Example\n"
        "print('script runs')\n"
        "BONUS = 2\n"
        "def helper(text): return len(text) + BONUS\n"
        "def reward(completions, **columns):\n"
        "    print('reward prints')\n"
        "    return [helper(text) for text in completions]\n"
        "with Scorer(reward, workers=2, timeout_seconds=60, chunk_size=1) as scorer:\n"
        "    print(scorer.score([Example('0', 'p'), Example('1', 'p')], ['', 'a']).values)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "script runs\n[2. 3.]\n"
    assert done.stderr == "reward prints\n" * 2


def test_a_reward_is_named_by_file_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour.py").write_text("BONUS = 5\n")
    (tmp_path / "rewards_of_mine.py").write_text(
        "from neighbour import BONUS\ndef f(completions, **columns): return [BONUS for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    with Scorer("rewards_of_mine.py:f", workers=1, timeout_seconds=5) as scorer:
        monkeypatch.chdir("/")
        assert scorer.score(EXAMPLES[:1], ["x"]).values.tolist() == [5]


def test_every_registered_reward_loads() -> None:
    for name in REWARDS:
        assert callable(load_reward(name))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("gsm8k_anser", "unknown reward 'gsm8k_anser'; known: .* Did you mean 'gsm8k_answer'"),
        ("no_such_package.f", "there is no module 'no_such_package'"),
        ("evolign.rewards.named:math_anser", "Did you mean 'math_answer'"),
        ("evolign.rewards:REWARDS", "is a dict; it must be callable"),
        ("nowhere.py:f", "the file .*nowhere.py' does not exist"),
        ("nowhere.py", "say which function: 'nowhere.py:function'"),
        ("json:", "names no function"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(spec: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_reward(spec)
    with (
        pytest.raises(ConfigError, match=sentence),
        Scorer(spec, workers=1, timeout_seconds=5) as scorer,
    ):
        scorer.start()


def test_a_file_that_cannot_be_imported_is_a_wrong_setting(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    for text, sentence in (("1 / 0", "raised ZeroDivisionError"), ("exit(0)", "must not exit")):
        path.write_text(text)
        scorer = Scorer(f"{path}:f", workers=1, timeout_seconds=5)
        with scorer, pytest.raises(ConfigError, match=sentence):
            scorer.start()


def test_a_function_that_cannot_be_pickled_is_a_wrong_setting() -> None:
    frame = sys._getframe()
    with pytest.raises(ConfigError, match="cannot be sent to a worker process"):
        Scorer(lambda **_: frame, workers=1, timeout_seconds=5)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError('oh')", r"my_reward.py:f' raised KeyError: 'oh'.*columns here: number\."),
        ("raise KeyError('oh')", r"my_reward.py\", line 2, in f"),
        ("exit(3)", "raised SystemExit: 3"),
        ("return [1.0]", r"returned 1 values for 16 completions; a reward returns a list"),
        ("return [float('nan')] * len(prompts)", r"returned nan \(float\) for completion 0"),
        ("return [0, float('inf')] * 8", r"returned inf \(float\) for completion 1"),
        ("return ['1'] * len(prompts)", r"returned '1' \(str\) for completion 0"),
        ("return [10**400] * len(prompts)", "for completion 0; a reward returns"),
        ("return 'x' * len(prompts)", r"returned 'xxxxxxxxxxxxxxxx' \(str\); a reward returns"),
        ("return 1.0", r"returned 1.0 \(float\); a reward returns a list"),
        ("return None", r"returned None \(NoneType\)"),
        ("yield 1", r"\(generator\); a reward returns"),
    ],
)
def test_a_broken_contract_is_an_error_that_says_which(
    reward_file: Callable[[str], str], body: str, sentence: str
) -> None:
    with pytest.raises(RewardError, match=f"(?s){sentence}"):
        score(reward_file(body), TEXTS[:16], workers=1)


def test_a_scorer_is_usable_after_a_reward_error() -> None:
    def picky(completions: list[str], **columns: Any) -> list[float]:
        assert "bad" not in completions
        return [1.0] * len(completions)

    with Scorer(picky, workers=2, timeout_seconds=60, chunk_size=1) as scorer:
        with pytest.raises(RewardError, match="AssertionError"):
            scorer.score(EXAMPLES[:4], ["a", "bad", "b", "c"])
        assert scorer.score(EXAMPLES[:4], ["a", "b", "c", "d"]).values.tolist() == [1, 1, 1, 1]


def test_what_a_reward_prints_or_reads_disturbs_nothing(
    reward_file: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    reward = reward_file(
        "import os, sys\nprint('printed')\nos.write(1, b'written\\n')\n"
        "return [len(sys.stdin.read())] * len(prompts)"
    )
    assert (score(reward, workers=1, chunk_size=100).values == 0).all()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert sorted(captured.err.split()) == ["printed", "written"]


def test_trls_own_accuracy_reward_runs_in_a_worker() -> None:
    pytest.importorskip("trl", reason="needs TRL")
    prompt = [{"role": "user", "content": "?"}]
    examples = [Example(id=str(i), prompt=prompt, columns={"solution": r"$\frac{1}{3}$"}) for i in range(2)]
    with Scorer("trl.rewards.accuracy_reward", workers=1, timeout_seconds=60) as scorer:
        scores = scorer.score(examples, [r"\boxed{\frac{2}{6}}", r"\boxed{\frac{1}{2}}"])
    assert scores.values.tolist() == [1, 0]


def test_answers_may_be_numbers_and_null_is_not_applicable() -> None:
    for reward in (gsm8k_answer, math_answer):
        assert reward(["?"] * 3, ["#### 5", "#### 2.5", "#### 1"], answer=[5, 2.5, None]) == [1, 1, None]


class Local:
    """A class that lives in this module alone: the reward's process cannot import it."""


def test_a_column_that_cannot_travel_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Local, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
    for value, words in ((Local(), "cannot be rebuilt in the process"), (lambda: 1, "cannot be sent to")):
        rows = [Example("a", "p", columns={"thing": value})]
        with Scorer(length, workers=1, timeout_seconds=60) as scorer, pytest.raises(ConfigError, match=words):
            scorer.score(rows, ["x"])


def test_what_is_no_function_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="the reward is 5; it must be a function"):
        score(5)  # type: ignore[arg-type]


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"workers": 0}, {"timeout_seconds": 0.0}, {"chunk_size": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} = 0"):
            score(length, **settings)
