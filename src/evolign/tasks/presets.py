"""Presets: public data sets as tasks. Each says which columns of a row are request and response.

    dolly          {"instruction": ..., "context": ..., "response": ..., "category": ...}
    self_instruct  {"instruction": ..., "instances": [{"input": ..., "output": ...}]}
    vicuna         {"question_id": 1, "category": ..., "turns": [...]}
    xsum           {"document": ..., "summary": ..., "id": ...}
    hh             {"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}

All become the task `rows`, so splits, templates and errors are those of `rows.py`. What cannot be used is
counted and left out with a warning: rows without a request or a response, too long ones, malformed dialogues,
and training rows whose request is also in validation or test.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from evolign.config.presets import REQUEST
from evolign.errors import ConfigError
from evolign.seeding import stream
from evolign.tasks.base import prompt_key
from evolign.tasks.cells import text
from evolign.tasks.files import Row, as_cell, column, read_rows, text_column
from evolign.tasks.rows import Rows

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}

Convert = Callable[[Row, int, str], Row | str]
"""From a row, its number and the setting it comes from to the row of the task, or why it is left out."""

log = logging.getLogger(__name__)


def dolly(*, template: str = REQUEST, **settings: Any) -> Rows:
    """Dolly (Conover et al. 2023): instructions with responses, written by people."""

    def convert(row: Row, number: int, field: str) -> Row | str:
        instruction, response = (
            text_column(row, name, number, field) for name in ("instruction", "response")
        )
        given = None if row.get("context") is None else text_column(row, "context", number, field)
        return _instruction(instruction, given, response, category=row.get("category"))

    return _task(convert, prompt=template, **settings)


def self_instruct(*, template: str = REQUEST, **settings: Any) -> Rows:
    """Self-Instruct (Wang et al. 2023): instructions that users could give; of each the first instance."""

    def convert(row: Row, number: int, field: str) -> Row | str:
        instances = column(row, "instances", number, field)
        try:  # the hub holds a dict of lists, the published file a list of dicts
            listed = isinstance(instances, Mapping)
            first = {k: v[0] for k, v in instances.items()} if listed else instances[0]
            parts = first["input"], first["output"]
        except (LookupError, TypeError) as error:
            raise ConfigError(
                f"{field}: `instances` of row {number} holds no input and output; is this Self-Instruct?"
            ) from error
        given, output = (as_cell(text, part, "instances", number, field) for part in parts)
        return _instruction(text_column(row, "instruction", number, field), given, output)

    return _task(convert, prompt=template, **settings)


def vicuna(*, test: str, references: str | None = None, template: str = REQUEST, **settings: Any) -> Rows:
    """Vicuna (Chiang et al. 2023): 80 questions, for evaluation; of each the first turn."""
    answers: dict[Any, str] = {}
    if references is not None:
        for number, row in enumerate(read_rows(references, "task.references", "test"), start=1):
            identity = column(row, "question_id", number, "task.references")
            answers[identity] = _first_turn(row, "choices", number, "task.references")

    def convert(row: Row, number: int, field: str) -> Row | str:
        identity = column(row, "question_id", number, field)
        request = _first_turn(row, "turns", number, field)
        # A column, not a completion: some questions may be without.
        return {"request": request, "reference": answers.get(identity), "category": row.get("category")}

    return _task(
        convert, prompt=template, completion=None, train=None, validation=None, test=test, **settings
    )


def _first_turn(row: Row, name: str, number: int, field: str) -> str:
    """The first turn of a question, or of the first answer to it."""
    value = column(row, name, number, field)
    try:
        first = value[0]["turns"][0] if name == "choices" else value[0]
    except (LookupError, TypeError) as error:
        raise ConfigError(f"{field}: `{name}` of row {number} holds no turns; is this Vicuna?") from error
    return as_cell(text, first, name, number, field)


def xsum(*, instruction: str, template: str = REQUEST, **settings: Any) -> Rows:
    """XSum (Narayan et al. 2018): news articles with a summary of one sentence."""

    def convert(row: Row, number: int, field: str) -> Row | str:
        document, summary = (text_column(row, name, number, field) for name in ("document", "summary"))
        return _instruction(instruction, document, summary) if document.strip() else "without a document"

    return _task(convert, prompt=template, **settings)


def hh(*, chat: bool = False, **settings: Any) -> Rows:
    """HH (Bai et al. 2022): dialogues with a chosen and a rejected last turn of the assistant.

    A prompt is the dialogue up to the last "Assistant:", or with `chat` its messages.
    """

    def convert(row: Row, number: int, field: str) -> Row | str:
        pair = (last_turn(text_column(row, name, number, field)) for name in ("chosen", "rejected"))
        (before, chosen), (before_too, rejected) = pair
        if not chosen.strip() or not rejected.strip():
            return "that do not end in words of the assistant"
        if before != before_too:
            return "whose two dialogues differ before the last turn"
        if chosen == rejected:
            return "with two equal last turns"
        if not chat:
            return {"request": before, "completion": chosen, "rejected": rejected}
        messages = as_messages(before)
        if messages is None:
            return "whose turns are not human and assistant by turns"
        return {"request": messages, "completion": chosen.strip(), "rejected": rejected.strip()}

    return _task(convert, prompt="request", rejected="rejected", **settings)


def last_turn(dialogue: str) -> tuple[str, str]:
    r"""What comes before the assistant's last words, and they; ("", "") if the dialogue is malformed.

    >>> last_turn("\n\nHuman: Hi.\n\nAssistant: Hello!")
    ('\n\nHuman: Hi.\n\nAssistant:', ' Hello!')
    """
    turns = list(TURN.finditer(dialogue))
    if not turns or turns[0].start() != 0 or turns[0][1] != "Human" or turns[-1][1] != "Assistant":
        return "", ""
    return dialogue[: turns[-1].end()], dialogue[turns[-1].end() :]


def as_messages(before: str) -> list[dict[str, str]] | None:
    """The messages of a dialogue up to its last "Assistant:"; None unless the two take turns."""
    _, *parts = TURN.split(before)
    speakers, texts = parts[::2], parts[1::2]
    if any(speaker != ("Human", "Assistant")[i % 2] for i, speaker in enumerate(speakers)):
        return None
    turns = zip(speakers[:-1], texts[:-1], strict=True)
    return [{"role": ROLES[speaker], "content": text.strip()} for speaker, text in turns]


def _instruction(instruction: str, given: str | None, response: str, **columns: Any) -> Row | str:
    if not instruction.strip() or not response.strip():
        return "without an instruction or a response"
    request = f"{instruction}\n\n### Input:\n{given}" if given and given.strip() else instruction
    return {"request": request, "completion": response.strip(), **columns}


def _task(
    convert: Convert,
    *,
    prompt: str,
    train: str | None,
    validation: str | None,
    test: str | None,
    num_validation: int,
    num_test: int | None,
    max_prompt_words: int | None,
    max_completion_words: int | None,
    seed: int,
    completion: str | None = "completion",
    **settings: Any,
) -> Rows:
    """The task `rows` on converted rows; of whole splits as many rows as are asked for, drawn by `seed`."""

    def rows(source: str | None, split: str, count: int | None = None) -> list[Row] | None:
        if source is None:
            return None
        found = _converted(convert, source, split, max_prompt_words, max_completion_words)
        order = stream(seed, "preset", split).permutation(len(found))[:count]
        return found if count is None else [found[i] for i in order]

    tested, validated = rows(test, "test", num_test), rows(validation, "validation", num_validation)
    learnt = rows(train, "train")
    validated = _without(validated, "validation", tested)
    return Rows(
        train=_without(learnt, "train", tested, validated),
        validation=validated,
        test=tested,
        prompt=prompt,
        completion=completion,
        num_validation=num_validation,
        num_test=num_test or 0,
        seed=seed,
        **settings,
    )


def _converted(
    convert: Convert, source: str, split: str, max_prompt_words: int | None, max_completion_words: int | None
) -> list[Row]:
    """The rows of a source that can be used."""
    field = f"task.{split}"
    found: list[Row] = []
    left_out: Counter[str] = Counter()
    for number, row in enumerate(read_rows(source, field, split), start=1):
        made = convert(row, number, field)
        if isinstance(made, str):
            left_out[made] += 1
        elif _words(made["request"]) > (max_prompt_words or float("inf")):
            left_out[f"with a request of more than {max_prompt_words} words"] += 1
        elif max(_words(made.get(name)) for name in ("completion", "rejected")) > (
            max_completion_words or float("inf")
        ):
            left_out[f"with a response of more than {max_completion_words} words"] += 1
        else:
            found.append(made)
    for reason, count in left_out.items():
        log.warning("%s: left out %d rows %s", field, count, reason)
    if not found:
        raise ConfigError(f"{field} = {source!r}: no row is left: {dict(left_out)}")
    return found


def _words(text: Any) -> int:
    """The words of a text, or of all messages; 0 of nothing."""
    if isinstance(text, list):
        return sum(_words(message["content"]) for message in text)
    return len(text.split()) if text else 0


def _without(rows: list[Row] | None, split: str, *others: list[Row] | None) -> list[Row] | None:
    """The rows whose request is not among `others`."""
    if rows is None:
        return None
    taken = {_key(row) for other in others for row in other or []}
    left = [row for row in rows if _key(row) not in taken]
    if len(left) < len(rows):
        log.warning(
            "task.%s: left out %d rows whose request is also in a split that is evaluated on",
            split,
            len(rows) - len(left),
        )
    return left


def _key(row: Row) -> str:
    return prompt_key(row["request"])
