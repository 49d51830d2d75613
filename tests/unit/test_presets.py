"""The presets turn rows of the documented formats into prompts, references and pairs, and count the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from evolign.config.presets import REQUEST
from evolign.config.recipe import parse
from evolign.errors import ConfigError
from evolign.tasks import build_task
from evolign.tasks.base import Task, check_disjoint, check_splits
from evolign.tasks.presets import as_messages, last_turn

DOLLY = [
    {"instruction": f"Name fruit {i}.", "context": "", "response": f"Apple {i}.", "category": "open_qa"}
    for i in range(6)
]
XSUM = [{"document": f"Long news {i}.", "summary": f"News {i}.", "id": str(i)} for i in range(6)]
HI = "\n\nHuman: Hi {i}.\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
HH = [{"chosen": f"{HI} Because {{i}}.", "rejected": f"{HI} No."} for _ in range(6)]
HH = [{name: text.replace("{i}", str(i)) for name, text in row.items()} for i, row in enumerate(HH)]


@pytest.fixture
def built(tmp_path: Path) -> Any:
    """`built("dolly", rows, **settings)` is the task of a recipe whose training file holds `rows`."""

    def build(name: str, rows: list[dict[str, Any]], **settings: Any) -> Task:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources: dict[str, Any] = {"train": str(path), "test": None, "num_test": None}
        if name == "vicuna":
            sources = {"test": str(path)}
        if name == "xsum":
            sources["validation"] = None
        return build_task(parse({"task": {"name": name, **sources, "num_validation": 2, **settings}}).task)

    return build


def test_dolly_puts_instruction_and_context_into_the_template(built: Any) -> None:
    rows = [{**DOLLY[0], "context": "Fruit grows."}, *DOLLY[1:]]
    task = built("dolly", rows, num_test=1, num_warmup=1)
    check_splits(task)
    examples = task.warmup + task.train + task.validation + task.test
    assert sorted(map(len, (task.warmup, task.train, task.validation, task.test))) == [1, 1, 2, 2]
    by_answer = {example.completion: example for example in examples}
    assert by_answer["Apple 1."].prompt == REQUEST.format(request="Name fruit 1.")
    with_context = REQUEST.format(request="Name fruit 0.\n\n### Input:\nFruit grows.")
    assert by_answer["Apple 0."].prompt == with_context
    assert by_answer["Apple 0."].columns["category"] == "open_qa"


def test_a_template_and_chat_are_the_users_choice(built: Any) -> None:
    task = built("dolly", DOLLY, num_test=None, template="{request}", chat=True)
    assert task.test == [] and task.train[0].prompt[0]["content"].startswith("Name fruit")


def test_xsum_asks_for_a_summary_of_the_article(built: Any) -> None:
    example = built("xsum", XSUM, num_test=1, instruction="In short:").test[0]
    number = str(example.completion)[5]
    assert f"In short:\n\n### Input:\nLong news {number}." in example.prompt


def test_self_instruct_takes_the_first_instance_in_both_layouts(built: Any) -> None:
    listed = [{"instruction": f"Do {i}.", "instances": [{"input": "", "output": f"{i}"}]} for i in range(5)]
    columned = [{**row, "instances": {"input": [""], "output": [str(i)]}} for i, row in enumerate(listed)]
    one, other = built("self_instruct", listed), built("self_instruct", columned)
    assert one.train == other.train and one.train[0].prompt.endswith(".\n\n### Response:\n")
    with pytest.raises(ConfigError, match="`instances` of row 1 holds no input and output"):
        built("self_instruct", [{"instruction": "Do.", "instances": []}])


def test_vicuna_is_for_evaluation_alone_and_may_have_references(built: Any, tmp_path: Path) -> None:
    questions = [{"question_id": i, "category": "generic", "turns": [f"Why {i}?"]} for i in range(3)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"question_id": 1, "choices": [{"turns": ["So."]}]}) + "\n")
    task = built("vicuna", questions, references=str(answers))
    check_disjoint(task)
    assert (task.train, task.validation, task.warmup, len(task.test)) == ([], [], [], 3)
    assert [example.columns["reference"] for example in task.test] == [None, "So.", None]
    with pytest.raises(ConfigError, match="train split is empty, so it can be evaluated on but not learnt"):
        check_splits(task)


def test_hh_splits_a_dialogue_at_the_last_turn(built: Any) -> None:
    task = built("hh", HH)
    example = task.train[0]
    assert str(example.prompt).startswith("\n\nHuman: Hi ") and str(example.prompt).endswith("\n\nAssistant:")
    assert str(example.completion).startswith(" Because ") and example.rejected == " No."
    messages = built("hh", HH, chat=True).train[0]
    assert [message["role"] for message in messages.prompt] == ["user", "assistant", "user"]
    assert messages.prompt[2]["content"] == "Why?" and messages.rejected == "No."


@pytest.mark.parametrize(
    ("row", "settings", "reason"),
    [
        (
            {"chosen": "Hello.", "rejected": HH[0]["rejected"]},
            {},
            "that do not end in words of the assistant",
        ),
        (
            {"chosen": f"{HH[0]['chosen']}\n\nHuman: Ok.", "rejected": HH[0]["rejected"]},
            {},
            "that do not end",
        ),
        ({**HH[0], "chosen": "\n\nHuman: Hi.\n\nAssistant:"}, {}, "that do not end in words"),
        ({**HH[0], "chosen": HH[1]["chosen"]}, {}, "whose two dialogues differ before the last turn"),
        ({**HH[0], "rejected": HH[0]["chosen"]}, {}, "with two equal last turns"),
        ({n: f"\n\nHuman: x{t}" for n, t in HH[0].items()}, {"chat": True}, "whose turns are not human and"),
        (
            {n: f"\n\nHuman: {'x ' * 400}{t}" for n, t in HH[0].items()},
            {},
            "a request of more than 384 words",
        ),
        ({**HH[0], "rejected": HH[0]["rejected"] + " no" * 100}, {}, "a response of more than 96 words"),
    ],
)
def test_what_is_unfit_is_counted_and_left_out(
    built: Any, caplog: pytest.LogCaptureFixture, row: dict[str, str], settings: dict[str, Any], reason: str
) -> None:
    task = built("hh", [row, *HH], **settings)
    assert len(task.train + task.validation) == 6
    assert "left out 1 rows" in caplog.text and reason in caplog.text
    with pytest.raises(ConfigError, match=f"no row is left.*{reason}"):
        built("hh", [row], **settings)


def test_a_training_row_that_is_also_tested_on_is_left_out(
    built: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(DOLLY[0]) + "\n")
    task = built("dolly", DOLLY, test=str(tmp_path / "test.jsonl"))
    assert len(task.train + task.validation) == 5 and len(task.test) == 1
    assert "left out 1 rows whose request is also in a split that is evaluated on" in caplog.text


def test_a_row_without_its_column_names_the_setting(built: Any) -> None:
    with pytest.raises(ConfigError, match="needs the column 'response', which row 1"):
        built("dolly", [{"instruction": "Do."}])


def test_last_turn_and_messages_by_hand() -> None:
    dialogue = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\ne"
    assert last_turn(dialogue) == ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d\n\ne")
    assert last_turn("Assistant: d") == last_turn("\n\nAssistant: d") == ("", "")
    assert as_messages("\n\nHuman: a\n\nHuman: b\n\nAssistant:") is None
