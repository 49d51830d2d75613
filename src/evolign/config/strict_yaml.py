"""YAML in which a text means what it says: a subset of YAML 1.2's core schema, read by PyYAML.

PyYAML reads YAML 1.1, where `yes` is true, `010` is 8 and `1:30` is 90, and where the last of two equal keys
wins. Here these are texts, which the types of the settings accept or refuse as written, and a repeated key is
refused with both lines. Anchors, aliases and merge keys (`<<`) are read; circles of them, and those that
unfold to more than a recipe can hold, are not. Tags such as `!!python/name` are not read at all.
"""

import re
from typing import Any

import yaml

from evolign.config.tree import MOST_VALUES, TOO_MANY
from evolign.untrusted import DEEPEST, LONGEST_NUMBER, TOO_DEEP, TOO_LONG, Unreadable

PREFIX = "tag:yaml.org,2002:"
PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
    "merge": re.compile("<<"),
}
"""What a plain scalar is, by the first pattern that it matches; else it is a text."""


def read(text: str) -> Any:
    """The value of a YAML text. Raises Unreadable with the line."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_told(error)) from None
    except yaml.reader.ReaderError as error:
        line, column = (
            text.count("\n", 0, error.position) + 1,
            error.position - text.rfind("\n", 0, error.position),
        )
        raise Unreadable(
            f"line {line}, column {column}: YAML does not allow the character "
            f"U+{int(error.character):04X}; remove it"
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def _told(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{where}it is not valid YAML: {why}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with plain scalars as above, and with limits on what it composes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._composed = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """Of every finished node: values in it with aliases unfolded, and levels below it."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        """The tag of a node that has none of its own."""
        if kind is yaml.ScalarNode:
            plain = implicit[0]
            found = next((name for name, form in PLAIN.items() if plain and form.fullmatch(value)), "str")
            return PREFIX + found
        return PREFIX + ("seq" if kind is yaml.SequenceNode else "map")

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        alias, line = isinstance(event, yaml.AliasEvent), event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise Unreadable(f"line {line}: tags such as {event.tag!r:.40} are not read; write a plain value")
        self._depth, self._composed = self._depth + 1, self._composed + 1
        if self._depth > DEEPEST:
            raise Unreadable(f"line {line}: {TOO_DEEP}")
        node = super().compose_node(parent, index)
        assert node is not None  # an undefined alias has raised
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise Unreadable(f"line {line}: the alias *{event.anchor:.40} stands inside what it stands for")
        size, levels = self._sizes[id(node)] if alias else self._measured(node)
        if self._depth + levels > DEEPEST:
            raise Unreadable(f"line {line}: {TOO_DEEP}")
        if max(size, self._composed) > MOST_VALUES:
            raise Unreadable(f"line {line}: {TOO_MANY}")
        return node

    def _measured(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
            _check_keys(node)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        else:
            children = []
            node.value = _checked_text(node.value, node.tag, node.start_mark.line + 1)
        sizes = [self._sizes[id(child)] for child in children]
        found = 1 + sum(size for size, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
        self._sizes[id(node)] = found
        return found


def _check_keys(node: yaml.MappingNode) -> None:
    """Keys are texts, and none comes twice."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag.removeprefix(PREFIX) not in ("str", "merge"):
            shown = f"{key.value!r:.40}" if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise Unreadable(f"line {line}: the key {shown} is no text; quote it, or remove it")
        if key.value in lines:
            raise Unreadable(
                f"line {line}: the key {key.value!r:.80} comes twice, first in line {lines[key.value]}; "
                "remove one of them"
            )
        lines[key.value] = line


def _checked_text(text: str, tag: str, line: int) -> str:
    """A scalar's text: JSON's pairs of surrogates joined, no endless number."""
    if tag.removeprefix(PREFIX) in ("int", "float") and len(text) > LONGEST_NUMBER:
        raise Unreadable(f"line {line}: {TOO_LONG}")
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise Unreadable(
            f"line {line}: the text {text!r:.80} holds half of a surrogate pair, which is no character"
        ) from None
