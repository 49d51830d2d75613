"""Inputs that nobody would write: a sentence each time, never a traceback, never over ten seconds.

`make test` tries a seeded sample. `make test-fuzz` goes on for two minutes, seed after seed, and prints how
many inputs there were.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from evolign.cli import app
from evolign.config import CONFIGS
from evolign.config.recipe import dump, load, parse
from evolign.errors import ConfigError, EvolignError, RewardError
from evolign.judging.base import Reply
from evolign.judging.contest import build_judge
from evolign.judging.template import Template
from evolign.rewards.calling import Batch, call_rewards
from evolign.rewards.process import RewardProcess
from evolign.runs.directory import RunDir
from evolign.tasks.rows import Rows

SECONDS = float(os.environ.get("EVOLIGN_FUZZ_SECONDS", 0)) / 7
"""Of each of the tests below."""
LIMIT = 10.0
RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
Hunt = Callable[..., None]


@pytest.fixture
def hunt(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Hunt:
    """`hunt(strategy, attempt, sample)` attempts `sample` inputs, or as many as there is time for."""

    def hunt(strategy: st.SearchStrategy[Any], attempt: Callable[[Any], None], sample: int) -> None:
        count, slowest = 0, 0.0

        def timed(value: Any) -> None:
            nonlocal count, slowest
            started = time.monotonic()
            attempt(value)
            count, slowest = count + 1, max(slowest, time.monotonic() - started)
            assert slowest < LIMIT

        end, number = time.monotonic() + SECONDS, 0
        while not number or time.monotonic() < end:
            limits = settings(
                max_examples=sample, deadline=None, database=None, suppress_health_check=[*HealthCheck]
            )
            seed(number)(limits(given(strategy)(timed)))()
            number += 1
        if SECONDS:
            with capsys.disabled():
                print(f"\n{request.node.name}: {count:,} inputs, the slowest {slowest:.1f} s")

    return hunt


@contextmanager
def refused(kind: type[EvolignError]) -> Iterator[None]:
    """The block may be refused by an error of this kind, in a text that can be read."""
    try:
        yield
    except kind as error:
        if len(str(error)) > 10_000:
            pytest.fail(f"an error of {len(str(error)):,} characters")


ODD_NUMBERS = [0, -1, 1, 2, 10**8, 10**23, 2**64, 10**300, 1e-320, 1e30, 1e308, -1e308, math.inf, math.nan]
ODD_TEXTS = ["", " ", "auto", "null", "yes", "010", "1:30", "meta", "\0", "\x1b[31m", "\ud800", "x" * 5000]
scalars = st.one_of(
    st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_TEXTS]), st.text(max_size=20), st.integers()
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=8,
)
json_values = st.recursive(
    scalars.filter(lambda value: not isinstance(value, int) or abs(value) < 10**300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def fields() -> list[tuple[str, str]]:
    """Every setting of every method, as its method and its dotted name."""

    def below(prefix: str, tree: Any) -> list[str]:
        children = tree.items() if isinstance(tree, dict) else []
        return [prefix, *(name for key, child in children for name in below(f"{prefix}.{key}", child))]

    return [
        (method, name)
        for method in CONFIGS
        for key, child in json.loads(dump(parse({"method": method}))).items()
        for name in below(key, child)
    ]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with pieces that are lost, repeated, flipped or put in."""
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"", data[begin:end] * 2, b"&a ", b"*a", b"!!", b"<<: ", b"[" * 99, b"{", b"\t"]
                ),
            )
        )
        data = data[:begin] + piece + data[end:]
    return data


def test_recipes_as_text(hunt: Hunt, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        with refused(ConfigError):
            load(path)
        assert path.read_bytes() == data and [*tmp_path.iterdir()] == [path]

    recipes = st.sampled_from(RECIPES).flatmap(lambda recipe: damaged(recipe.read_bytes()))
    hunt(recipes | st.binary(max_size=60), attempt, 40)


def test_recipes_as_trees(hunt: Hunt) -> None:
    def attempt(changed: tuple[tuple[str, str], Any]) -> None:
        (method, name), value = changed
        tree: Any = value
        for key in reversed(name.split(".")):
            tree = {key: tree}
        with refused(ConfigError):
            parse({"method": method, **tree})

    hunt(st.tuples(st.sampled_from(fields()), trees), attempt, 40)


def test_check_on_the_command_line(
    hunt: Hunt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    small = {"num_train": 8, "num_validation": 2, "num_test": 2, "num_warmup": 2}
    recipe.write_text(json.dumps({"task": small, "evolution": {"prompts_per_generation": 2}}))
    monkeypatch.setattr("signal.signal", lambda *given: None)
    before = recipe.read_bytes()

    def attempt(changed: tuple[tuple[str, str], Any]) -> None:
        (_, name), value = changed
        text = value if isinstance(value, str) else repr(value)
        arguments = ["evolign", "check", str(recipe), f"{name}={text}"]
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
            patch.setattr(sys, "argv", arguments)
            app.main()
            sys.exit(0)
        told = capsys.readouterr().err
        code = 1 if isinstance(caught.value.code, str) else caught.value.code or 0
        assert code in (0, 1, 2) and "Traceback" not in told, (arguments, told)
        assert recipe.read_bytes() == before and [*tmp_path.iterdir()] == [recipe]

    short = st.sampled_from([10**8, 1e30, 1e-320, True, *ODD_TEXTS[:-1]]) | st.integers(-5, 50)
    evolution = [field for field in fields() if field[0] == "evolution"]
    attempt((("evolution", "seed"), 1))  # the first imports torch, which takes its time
    hunt(st.tuples(st.sampled_from(evolution), short), attempt, 2)


def test_rows(hunt: Hunt, tmp_path: Path) -> None:
    template = st.sampled_from(["q", "{q}", "{q} {a}", "{q[0]}", "{q!r:>9}", "{q:{a}}", "{", "{}", "{q.x}"])

    def attempt(given: tuple[str, bytes, str]) -> None:
        suffix, data, prompt = given
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(data)
        with refused(ConfigError):
            rows = Rows(train=str(path), prompt=prompt, completion="a", num_validation=1)
            assert all(example.completion for example in rows.train)

    row = st.fixed_dictionaries({"q": json_values, "a": json_values})
    lines = st.lists(row, min_size=2, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    suffixes = st.sampled_from([".jsonl", ".jsonl", ".json", ".csv", ".tsv.gz", ".parquet"])
    hunt(st.tuples(suffixes, lines | lines.flatmap(damaged), template), attempt, 40)


def test_rewards_answers(hunt: Hunt) -> None:
    process = object.__new__(RewardProcess)
    process.name, process._token, process._count, process._environment = "reward", "t", (1, 2), {}

    def attempt(given: tuple[Any, bytes]) -> None:
        returned, line = given
        with refused(RewardError):
            batch = Batch(["p", "q"], ["a", "b"])
            [values] = call_rewards({"reward": lambda **columns: returned}, batch).values
            assert len(values) == 2 and all(value is None or abs(value) <= 1e15 for value in values)
        with refused(EvolignError):
            process._read(line)

    odd = st.sampled_from(
        [np.ones((2, 2)), np.float64(1), object(), 1j, b"12", range(2), {1, 2}, iter([1, 2])]
    )
    answers = st.tuples(json_values, json_values, json_values).map(
        lambda parts: json.dumps(
            {"token": "t", **dict(zip(("values", "metrics", "columns"), parts, strict=True))}
        ).encode()
    )
    hunt(st.tuples(trees | st.lists(odd | scalars, max_size=3) | odd, answers | st.binary()), attempt, 40)


def test_checkpoints(hunt: Hunt, tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "run", dump(parse({}))) as run:
        run.save(1, {"seconds": 1.0}, {"theta": np.arange(5.0)})
        [good] = run.checkpoints.glob("*.npz")
        data = good.read_bytes()

        def attempt(bad: bytes) -> None:
            for path in run.checkpoints.iterdir():
                path.unlink()
            good.write_bytes(bad)
            with refused(EvolignError):
                run.restore()

        hunt(damaged(data), attempt, 40)


def test_judges_replies(hunt: Hunt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge: Any = build_judge("gpt-x", url="http://127.0.0.1:9/v1", cache=tmp_path)
    endpoint, template = judge._backend, Template()

    def attempt(body: str) -> None:
        try:
            reply = endpoint._read(body, 0)
        except (ValueError, LookupError, TypeError):  # what `Endpoint` takes for no chat completion
            return
        assert isinstance(reply, Reply) and isinstance(reply.text, str)
        assert template.read(reply.text) in ("A", "B", "tie", "invalid")

    shaped = st.tuples(json_values, json_values).map(
        lambda pair: json.dumps({"choices": [{"message": {"content": pair[0]}}], "usage": pair[1]})
    )
    hunt(shaped | json_values.map(json.dumps) | st.text(), attempt, 40)
