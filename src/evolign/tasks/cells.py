"""Cells: what text, or which chat messages, one value of a row is. Nothing else decides that.

    a str, int, float or bool, and numpy's and Arrow's of these    its text
    [{"role": "user", "content": "..."}, ...]                      messages
    [{"from": "human", "value": "..."}, ...]                       messages (ShareGPT's form)
    content: [{"type": "text", "text": "..."}, ...]                the texts, joined

Everything else is refused: a ValueError says what the value is, as the end of the sentence "the column
'answer' of row 3 ...", and what to do about it. Nothing heavy is imported: reward workers use it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evolign.errors import shown
from evolign.messages import Message, Prompt

ROLES = {role: role for role in ("system", "developer", "user", "assistant", "tool")} | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""What roles are called in data, and what a chat template calls them."""
BESIDE_CONTENT = (
    *("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"),
    *("images", "image", "audio", "videos"),
)
"""Keys of a message that say something which its content does not."""
HOW = "give a text, a number, or messages of role and content"


def cell(value: Any) -> Prompt:
    """The text or the messages that a value is. Raises ValueError for what is neither."""
    plain = _plain(value)
    if not isinstance(plain, list) or _is_parts(plain):
        return _text(plain)
    if not plain:
        raise ValueError(f"is an empty list; {HOW}, or remove the row")
    if not all(isinstance(item, Mapping) for item in plain):
        kinds = ", ".join(sorted({type(item).__name__ for item in plain}))
        raise ValueError(f"is a list of {kinds}; {HOW}")
    return [_message(item, number) for number, item in enumerate(plain, start=1)]


def text(value: Any) -> str:
    """The text that a value is, of messages that of one turn. Raises ValueError for what is none.

    >>> text(3), text([{"role": "assistant", "content": "three"}])
    ('3', 'three')
    """
    found = cell(value)
    if isinstance(found, str):
        return found
    if len(found) > 1 or found[0]["role"] != "assistant":
        raise ValueError(f"holds the turns {_turns(found)}; give a text, or one turn of the assistant")
    return found[0]["content"]


def completion_after(prompt: Prompt, value: Any) -> str:
    """The text of a completion; of a whole dialogue that begins with the prompt, what follows it.

    Raises ValueError where that is not one turn of the assistant, or where the dialogue has another prompt.
    """
    found = cell(value)
    if isinstance(found, str):
        return found
    rest = _what_follows(prompt, found)
    if rest is None and found[0]["role"] == "assistant":
        rest = found
    if rest is None:
        raise ValueError(
            f"holds the dialogue {_turns(found)}, which does not begin with the row's prompt; name one "
            "column for both task.prompt and task.completion if it holds the whole dialogue"
        )
    if len(rest) != 1 or rest[0]["role"] != "assistant":
        raise ValueError(
            f"holds the turns {_turns(rest) or 'none'} after the prompt, and a completion is one turn of the "
            "assistant; name one column for both task.prompt and task.completion to learn a dialogue's last "
            "turn, or split the row"
        )
    return rest[0]["content"]


def without_last_turn(value: Any) -> list[Message]:
    """The messages of a dialogue before its last one, the assistant's. Raises ValueError without one."""
    found = cell(value)
    if isinstance(found, str):
        raise ValueError(
            "is named as both prompt and completion, which only a dialogue can be; name two columns"
        )
    if len(found) < 2 or found[-1]["role"] != "assistant":
        raise ValueError(
            f"holds the turns {_turns(found)}; as both prompt and completion it must end with the assistant's"
        )
    return found[:-1]


def _what_follows(prompt: Prompt, dialogue: Sequence[Message]) -> list[Message] | None:
    """What follows the prompt's messages, or them without a system message; None for another beginning."""
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    beginnings = [given, given[1:]] if given[0]["role"] == "system" else [given]
    for beginning in beginnings:
        if _said(dialogue[: len(beginning)]) == _said(beginning):
            return list(dialogue[len(beginning) :])
    return None


def _said(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]


def _turns(messages: Sequence[Message]) -> str:
    return ", ".join(message["role"] for message in messages)


def _plain(value: Any) -> Any:
    """The value without the types of numpy and Arrow around it; a list for every sequence."""
    if hasattr(value, "as_py"):  # an Arrow scalar
        plain, kind = value.as_py(), str(value.type)
        if isinstance(plain, float) and kind in ("float", "halffloat"):
            import numpy as np

            return str(np.float32(plain)) if math.isfinite(plain) else plain
        return plain
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        if value.ndim:
            return value.tolist()
        number = value.item()
        # The text of a float32 is not that of the float64 that it becomes.
        short = isinstance(number, float) and math.isfinite(number)
        return str(value) if short else number
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, str):
        if _written_out(value):
            raise ValueError(
                "holds messages that were saved as text; save the rows as .jsonl or .parquet, or read the "
                "text with json.loads"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"is {shown(value)}, with half of a surrogate pair, which is no character; remove it"
            ) from None
        return str.__str__(value)
    if isinstance(value, float) and not math.isfinite(value):
        means = ", which stands for a missing value" if math.isnan(value) else ""
        raise ValueError(f"is {value}{means}; remove the row")
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "".join(map(_part, value))
    if value is None:
        raise ValueError("is null; remove the row")
    raise ValueError(f"is a {type(value).__name__}; {HOW}")


def _written_out(value: str) -> bool:
    """Whether a text is messages as json.dumps or a CSV writer puts them."""
    listed = re.match(r"\s*\[\s*\{", value) and value.rstrip().endswith("]")
    return bool(listed) and all(
        re.search(rf"""['"]({key})['"]\s*:""", value) for key in ("role|from", "content|value")
    )


def _is_parts(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(item, Mapping) and "type" in item for item in value)


def _part(part: Any) -> str:
    """The text of a part of a message."""
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ValueError(f"has a part of type {kind!r} in its content, and only text can be read; {HOW}")
    result: str = part["text"]
    return result


def _message(item: Mapping[str, Any], number: int) -> Message:
    """A message with a role that chat templates know, and its content as text."""
    given = {key: value for key, value in item.items() if value is not None}
    missing = object()
    role = given.get("role", given.get("from", missing))
    content = _plain(given.get("content", given.get("value", missing)))
    beside = next((key for key in BESIDE_CONTENT if _says_something(given.get(key))), None)
    if beside is not None:
        raise ValueError(f"has {beside} in its message {number}, which is not text; {HOW}")
    if role is missing or content is missing:
        keys = ", ".join(map(str, given)) or "nothing"
        raise ValueError(
            f"is a list whose element {number} has {keys}, where a message has role and content; {HOW}"
        )
    known = ROLES.get(str(role).strip().lower())
    if known is None and "role" not in given:
        raise ValueError(f"has the speaker {role!r} in its message {number}; known: {', '.join(ROLES)}")
    if isinstance(content, list) and not all(isinstance(part, Mapping) for part in content):
        raise ValueError(f"has a list in its message {number} that is not parts of text; {HOW}")
    try:
        said = _text(content)
    except ValueError as error:
        raise ValueError(f"has a message, number {number}, whose content {error}") from None
    kept = {key: str(given[key]) for key in ("name", "tool_call_id") if given.get(key)}
    return {"role": known or str(role), "content": said, **kept}


def _says_something(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)
