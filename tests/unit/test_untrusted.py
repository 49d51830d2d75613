"""Files that somebody else wrote: what is read as it is written, and what is refused, where and why."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from evolign import untrusted
from evolign.config import strict_yaml
from evolign.config.recipe import load, parse
from evolign.errors import ConfigError, shown, unknown_name
from evolign.untrusted import Unreadable

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("1e-3", 0.001),
        ("-5", -5),
        (".5", 0.5),
        ("TRUE", True),
        ("~", None),
        ("'010'", "010"),
        (r'"\ud83d\ude00"', "😀"),  # JSON's way to write it
        ("{a: &a {x: 1}, b: {<<: *a, y: 2}}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("{<<: {a: 1}, a: 2}", {"a": 2}),
    ],
)
def test_a_plain_scalar_is_read_as_it_is_written(text: str, value: object) -> None:
    assert strict_yaml.read(f"key: {text}") == {"key": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' comes twice, first in line 1"),
        ("s:\n  b: 1\n  c: 2\n  'b': 2", "line 4: the key 'b' comes twice, first in line 2"),
        ("- {b: 1, b: 1}", "line 1: the key 'b' comes twice, first in line 1"),
        ("a: &x [*x]", r"line 1: the alias \*x stands inside what it stands for"),
        ("a: &x\n  b: *x", r"line 2: the alias \*x stands inside"),
        ("a: " + "[" * 3000, "nested more than 64 deep"),
        ("a: " + "{b: " * 3000, "nested more than 64 deep"),
        ("- " * 3000, "nested more than 64 deep"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 90)), "64 deep"),
        (BOMB, "more than 10,000 values"),
        ("a: [" + "1, " * 20_000 + "]", "more than 10,000 values"),
        ("<<: [" + BOMB.replace("\n", ", ").replace("a0: ", "").replace(": &", " : &") + "]", "line 1"),
        ("2026: 1", "line 1: the key '2026' is no text; quote it"),
        ("null: 1", "the key 'null' is no text"),
        ("? [a, b]\n: 1", "a list or a mapping is no text"),
        ("a: " + "9" * 5000, "a number has more than 308 digits"),
        ("a: 1." + "9" * 5000, "a number has more than 308 digits"),
        ("a: !!int z", "tags such as .*int' are not read"),
        ("a: !!binary 'AAAA'", "tags such as"),
        ("a: !!timestamp 2026-01-01", "tags such as"),
        (r'a: "\ud800"', "half of a surrogate pair"),
        ("a: \0", r"line 1, column 4: YAML does not allow the character U\+0000"),
        ("a: 1\nb: \x1b[31m", r"line 2, column 4: .* U\+001B"),
        ("a: *b", "line 1, column 4: .*undefined alias"),
        ("--- 1\n--- 2", "line 2, column 1: .*expected a single document"),
    ],
)
def test_what_yaml_would_guess_unfold_or_run_is_refused_with_its_line(text: str, words: str) -> None:
    started = time.process_time()
    with pytest.raises(Unreadable, match=words):
        strict_yaml.read(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text", ["seed: yes", "seed: true", "seed: 1:30", "seed: 0o17", "adapter: {rank: on}"]
)
def test_what_is_no_number_is_none_of_ours(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(seed|adapter\.rank) = "):
        parse(strict_yaml.read(text))


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert parse({}, ["seed=010"]).seed == 10


def cycle() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["model"] = tree
    return tree


class Speechless:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (cycle(), "nested more than 64 deep"),
        ({1: 2}, "the key 1 is no text"),
        ({"model": {b"name": 2}}, "the key b'name' is no text"),
        ({"seed": 10**5000}, "more than 308 digits"),
        ({"seed": Speechless()}, r"a Speechless is no plain value \(no\)"),
        ({"adapter": [0] * 20_000}, "more than 10,000 values"),
        ({"method": []}, r"unknown method \[\]"),
        ({"method": "e" * 100_000}, "unknown method 'eeee"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_tree_from_python_that_no_recipe_can_hold_is_refused(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(tree)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_no_text_is_told_where_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for data, words in (
        (b"a: 1\nb: x\xff", "line 2, column 5: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"#" * (untrusted.SMALL_FILE + 1), "it has 262,145 bytes, which is more than the 262,144"),
    ):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=words):
            load(path)
    path.write_bytes(b"\xef\xbb\xbfseed: 3")  # the mark that some editors put first
    assert load(path).seed == 3


def test_a_pipe_and_a_device_are_no_recipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="it is no regular file; copy what it says into one"):
            load(path)
    with pytest.raises(ConfigError, match="no file has such a name"):
        load("a\0b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b" 2}', "line 2 is not JSON: .*column 6"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 100 + "]" * 100, "nested more than 64 deep"),
        ('{"a": ' * 100 + "1" + "}" * 100, "nested more than 64 deep"),
        ("9" * 5000, "more than 308 digits"),
    ],
)
def test_json_that_breaks_readers_is_told_where(text: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        untrusted.json_value(text)


def test_a_json_file_is_an_object_in_utf8() -> None:
    assert untrusted.json_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(Unreadable, match="it holds a list, not a JSON object"):
        untrusted.json_object("[]")
    with pytest.raises(Unreadable, match="line 1, column 7: the byte 0xff is not UTF-8"):
        untrusted.json_object(b'{"a": \xff}')


def test_many_values_side_by_side_are_not_deep() -> None:
    assert len(untrusted.json_value("[" + ", ".join(["[[1]]"] * 500) + "]")) == 500


def test_messages_show_any_value_in_little_space_and_time() -> None:
    started = time.process_time()
    for value in (
        "x" * 10**7,
        [0] * 10**7,
        Speechless(),
        [Speechless()],
        10**5000,
        cycle(),
        "\x1b[31m\ud800",
    ):
        text = shown(value)
        assert len(text) <= 80 and text.isascii() and text.isprintable()
    assert len(str(unknown_name("reward", "x" * 10**6, ["rouge_l"] * 100))) < 2000
    assert time.process_time() - started < 2
