"""Rows of your own are read from every kind of source, and every mistake in them is named."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolign.errors import ConfigError
from evolign.tasks.gsm8k import Gsm8k, solution
from evolign.tasks.rows import Rows

ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "source": "x"} for i in range(12)]
SMALL: dict[str, Any] = {"prompt": "question", "num_validation": 3}


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheet programs do
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_text(lines(ROWS)),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS).encode())),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": write_csv,
    "rows.parquet": write_parquet,
}


def test_a_refused_row_refuses_the_file_and_all_of_its_kind_are_named() -> None:
    rows = [row | {"question": None} if i in (2, 6, 11) else row for i, row in enumerate(ROWS)]
    words = r"question' of row 3 is null; remove the row \(refused for such reasons too: rows 7, 12\)"
    with pytest.raises(ConfigError, match=words):
        Rows(train=rows, **SMALL)
    kept = [row for number, row in enumerate(rows, start=1) if number not in (3, 7, 12)]
    assert len(Rows(train=kept, **SMALL).train) == 6
    with pytest.raises(ConfigError, match=r"of row 1 is null.*too: rows 2, 3, 4, 5, 6, 7, 8, 9, 10\)"):
        Rows(train=[{"question": None}] * 100, **SMALL)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_task_of_the_live_list(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path / name)
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    live, read = Rows(train=ROWS, **SMALL), Rows(train=f"$MY_DATA/{name}", **SMALL)
    assert (read.train, read.validation) == (live.train, live.validation)
    assert (len(read.train), len(read.validation), read.test) == (9, 3, [])


def test_a_live_dataset_and_separate_files_are_taken(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "test.jsonl").write_text(lines(ROWS[10:]))
    task = Rows(
        train=datasets.Dataset.from_list(ROWS[:8]),
        validation=ROWS[8:10],
        test=str(tmp_path / "test.jsonl"),
        prompt="question",
    )
    assert [len(task.train), len(task.validation), len(task.test)] == [8, 2, 2]


def test_a_hub_name_may_say_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, config, split))
        return ROWS[:6] if split != "held_out" else ROWS[6:]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    Rows(train="me/data", validation="me/data:main@held_out", prompt="question")
    assert asked == [("me/data", None, "train"), ("me/data", "main", "held_out")]


def test_a_hub_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **settings: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ConfigError, match=r"'me/data' is no file here.*no route"):
        Rows(train="me/data")


def test_templates_chat_and_the_columns_for_the_reward() -> None:
    plain = Rows(train=ROWS, **{**SMALL, "prompt": "Q: {question}\nA \\boxed{{}}:"}).train[0]
    assert str(plain.prompt).startswith("Q: What is") and "A \\boxed{}:" in str(plain.prompt)
    assert set(plain.columns) == {"question", "answer", "source"}
    task = Rows(
        train=ROWS,
        chat=True,
        system="Be brief.",
        completion="It is {answer}.",
        num_warmup=2,
        **SMALL,
    )
    example = task.warmup[0]
    question = {"role": "user", "content": f"What is {int(example.columns['answer']) - 1} + 1?"}
    assert example.prompt == [{"role": "system", "content": "Be brief."}, question]
    assert example.completion == f"It is {example.columns['answer']}."
    assert set(example.columns) == {"answer", "source"}


def test_a_column_of_completions_goes_to_the_reward_too() -> None:
    task = Rows(train=ROWS, completion="answer", prompt="question", num_validation=3, num_warmup=2)
    example = task.warmup[0]
    assert example.completion == example.columns["answer"]


def test_solved_rows_for_the_warm_start_may_come_from_elsewhere() -> None:
    solved = [{"question": f"Half of {2 * i}?", "solution": f"{2 * i} / 2 = {i}"} for i in range(5)]
    settings: dict[str, Any] = {"prompt": "question", "completion": "solution", "num_validation": 3}
    task = Rows(train=ROWS, warmup=solved, **settings)
    assert [example.completion for example in task.warmup] == [row["solution"] for row in solved]
    assert len(task.train) == len(ROWS) - 3, "no row of train is spent on it"
    assert {example.completion for example in task.train} == {None}, "these have no such column"
    some = Rows(train=ROWS, warmup=solved, num_warmup=2, **settings)
    assert some.warmup == task.warmup[:2] and some.train == task.train
    with pytest.raises(ConfigError, match=r"task.num_warmup = 6, but task.warmup has 5 distinct rows"):
        Rows(train=ROWS, warmup=solved, num_warmup=6, **settings)
    with pytest.raises(ConfigError, match=r"task.warmup needs task.completion"):
        Rows(train=ROWS, warmup=solved, prompt="question")
    with pytest.raises(ConfigError, match=r"task.completion needs the column 'solution', which row 1"):
        Rows(train=ROWS, warmup=[{"question": "Half of 2?"}], **settings)


def test_chat_messages_in_the_file_are_passed_through() -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": str(i)}],
            "completion": [{"role": "assistant", "content": "yes"}],
        }
        for i in range(4)
    ]
    task = Rows(train=rows, completion="completion", num_validation=1, num_warmup=1)
    assert task.warmup[0].prompt in [row["prompt"] for row in rows]
    assert (task.warmup[0].completion, task.warmup[0].columns) == ("yes", {})


def test_ids_do_not_depend_on_the_order_of_the_rows() -> None:
    def ids(rows: list[dict[str, str]]) -> dict[str, str]:
        task = Rows(train=rows, **SMALL)
        return {str(example.prompt): example.id for example in task.train + task.validation}

    assert ids(ROWS) == ids(ROWS[::-1])


def test_of_rows_with_one_prompt_the_first_counts(caplog: pytest.LogCaptureFixture) -> None:
    task = Rows(train=[*ROWS, {**ROWS[0], "answer": "other"}], **SMALL)
    assert len(task.train) == 9
    assert "other" not in [example.columns["answer"] for example in task.train + task.validation]
    assert "left out 1 rows" in caplog.text


@pytest.mark.parametrize(
    ("text", "settings", "sentence"),
    [
        (lines(ROWS) + "{oops\n", {}, "rows.jsonl': line 13 is not JSON"),
        (lines(ROWS) + "[1]\n", {}, "line 13 is a list; every line must be an object"),
        ("\n", {}, "holds no rows"),
        ("\xff", {}, "line 1, column 1: the byte 0xff is not UTF-8; save"),
        (lines(ROWS), {"prompt": "questoin"}, "'questoin', which row 1.*Did you mean 'question'"),
        (lines(ROWS), {"prompt": "Q {questoin}"}, "its columns: question, answer, source"),
        (lines([{"question": None}]), {}, "column 'question' of row 1 is null"),
        (lines(ROWS), {"prompt": "box{}{question}"}, "braces need a column's name"),
        (lines(ROWS), {"prompt": "{question"}, "is no template"),
        (lines(ROWS), {"prompt": "{question[0][1]}"}, "does not fit row 1: IndexError"),
        (lines(ROWS), {"num_validation": 12}, "12 distinct rows, but .* leave none to train on"),
        (lines(ROWS), {"num_warmup": 2}, "num_warmup = 2 needs task.completion"),
        (lines(ROWS), {"system": "Be brief."}, "set task.chat = true"),
        (lines(ROWS), {"test": ROWS[:1]}, "1 prompts of test are also in (train|validation)"),
    ],
)
def test_what_is_wrong_with_rows_is_said(
    text: str, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=sentence):
        Rows(train=str(path), **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("rows.json", '{"question": 1}', "must hold one array of objects"),
        ("rows.json", '{"a": 1}\n{"a": 2}', "is not JSON: Extra data"),
        ("rows.csv", "question,answer\n1,2,3\n", "row 1 has not as many fields as the header"),
        ("rows.csv", 'question,answer\n"1', "cannot be read: Error: unexpected end of data"),
        ("rows.parquet", "not parquet", "cannot be read: ArrowInvalid"),
        ("rows.jsonl.gz", "not gzip", "cannot be read: BadGzipFile"),
        ("rows.xml", "<a/>", "has the ending '.xml'; known: .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        Rows(train=str(tmp_path / name), **SMALL)


def test_a_missing_file_and_an_unset_variable_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"task.train = 'no/x.jsonl' does not exist \(looked in /"):
        Rows(train="no/x.jsonl")
    monkeypatch.delenv("NO_DATA", raising=False)
    for path in ("$NO_DATA/x.jsonl", "${NO_DATA}/x.jsonl"):
        with pytest.raises(ConfigError, match="the environment variable NO_DATA is not set; set it"):
            Rows(train=path)


def test_a_file_that_is_not_gsm8k_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    sizes: dict[str, Any] = {"num_warmup": 1, "num_validation": 1}
    for row, sentence in (
        ({"answer": "#### 1"}, "needs the column 'question'"),
        ({"answer": "1"}, r"row \d: the answer does not end in '#### N'; is this GSM8K"),
        ({"answer": 1}, r"row \d: the answer is a int; it must be a text"),
    ):
        questions = [{"question": str(i)} if "question" not in sentence else {} for i in range(5)]
        path.write_text(lines([{**question, **row, "id": i} for i, question in enumerate(questions)]))
        with pytest.raises(ConfigError, match=sentence):
            Gsm8k(train=str(path), test=str(path), **sizes)


def test_a_worked_solution_keeps_the_steps_and_boxes_the_number() -> None:
    worked, number = solution("48/2 = <<48/2=24>>24 clips.\n24+48 = <<24+48=72>>72.\n#### 72")
    assert number == "72"
    assert worked == "48/2 = 24 clips.\n24+48 = 72.\nThe answer is \\boxed{72}."


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("deep.jsonl", b'{"p": 1}\n{"p": ' + b"[" * 9000 + b"]" * 9000 + b"}", "line 2: .*64 deep; flatten"),
        ("digits.jsonl", b'{"p": ' + b"9" * 5000 + b"}", "line 1: a number has more than 308 digits"),
        ("digits.json", b'[{"p": ' + b"9" * 5000 + b"}]", "a number has more than 308 digits"),
        ("latin.jsonl", b'{"p": 1}\n{"p": "\xe4"}', "line 2, column 8: the byte 0xe4 is not UTF-8; save"),
        ("latin.csv", b"p\na\n\xe4\n", "line 3, column 1: the byte 0xe4 is not UTF-8; save the file"),
        ("half.jsonl", rb'{"p": "\ud800"}', "'p' of row 1 is '.ud800', with half of a surrogate pair"),
        ("torn.csv.gz", gzip.compress(b"p\n" + b"a\n" * 10**5)[:200], "cannot be read: EOFError"),
        ("broken.csv.gz", gzip.compress(b"p\n" + b"a\n" * 999)[:-30] + b"x" * 40, "cannot be read"),
        ("bomb.jsonl.gz", gzip.compress(b"x" * 70 * 2**20), "line 1 has more than 67,108,864 characters"),
        ("bomb.csv.gz", gzip.compress(b"p\n" + b"a\n" * 10**6), "more than 100,000 characters"),
        ("keys.jsonl", b'{"' + b"q" * 10**6 + b'": 1}', "needs the column 'p', .*qqqq"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_file_that_would_break_its_reader_is_refused_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, words: str
) -> None:
    if name == "bomb.csv.gz":
        monkeypatch.setattr("evolign.untrusted.most_of_data", lambda: 10**5)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        Rows(train=str(tmp_path / name), prompt="p", num_validation=1)
    assert len(str(caught.value)) < 1000


def test_a_parquet_file_that_memory_cannot_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"p": ["same"] * 10**5}), path)  # 2 KB, since all are equal
    monkeypatch.setattr("evolign.untrusted.most_of_data", lambda: 10**4)
    with pytest.raises(ConfigError, match=r"100,000 rows of .* would not fit into memory; take a part"):
        Rows(train=str(path), prompt="p", num_validation=1)


@pytest.mark.parametrize(
    "template", ["{p:>1000000000}", "{n:1000000000d}", "{n:.99999f}", "{p:{n}}", "{n:c}"]
)
def test_a_template_cannot_blow_a_row_up(template: str) -> None:
    with pytest.raises(ConfigError, match="does not fit row 1: "):
        Rows(train=[{"p": "x", "n": 10**9}] * 3, prompt=template, num_validation=1)
