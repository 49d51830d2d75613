r"""Rows: your own prompts, from a file, a hub data set or a live list, with any reward.

A row is whatever your file holds, for instance a line of JSON:

    {"question": "What is 12 * 12?", "answer": "144", "source": "squares.txt"}

With `prompt="Question: {question}\nAnswer:"` it becomes the prompt "Question: What is 12 * 12?..."
and the reward is called with the columns that are left (those of `completion` too):
`reward(prompts=[...], completions=[...], answer=["144"], source=["squares.txt"])`.

A row of preferences holds two completions, `completion` names the chosen one and `rejected` the other:

    {"question": "What is 12 * 12?", "good": "It is 144.", "bad": "It is 122."}
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from string import Formatter
from typing import Any, TypeVar

from evolign.errors import ConfigError, shown
from evolign.messages import Prompt
from evolign.seeding import stream
from evolign.tasks.base import check_disjoint, check_splits, prompt_key
from evolign.tasks.cells import cell, completion_after, text, without_last_turn
from evolign.tasks.files import Row, as_cell, check_enough, column, read_rows
from evolign.types import Example, Rewards

Source = str | Iterable[Mapping[str, Any]]
T = TypeVar("T")

RESERVED = frozenset({"prompt", "prompts", "completion", "completions", "completion_ids"})
"""Columns that never go to the reward: it has arguments of these names, or TRL withholds them."""

WIDE = re.compile("[0-9]{4}")
"""In the format of a template: a width of a thousand million would fill the memory."""

MOST_REFUSED = 10
"""Rows that a refusal names."""
log = logging.getLogger(__name__)


class Rows:
    """The task of your own rows.

    `prompt` is a column or a template over columns such as "Question: {question}\nAnswer:"; so is
    `completion`, where there are references, and `rejected`, where there are worse ones. A prompt
    column may hold chat messages. Of a dialogue that begins with the prompt's messages, the completion is
    what follows; where one column is named for prompt and completion, it is the dialogue's last turn. Where
    `validation` is None, its rows are taken from `train`, drawn by `seed`; so are the warm-up rows where
    `warmup` is None, and `num_test` test rows where `test` is None. With `warmup`, other rows need no
    completion. Without `train` the task is only for evaluation. Of rows with one prompt the first counts;
    pairs of two equal completions are left out. Sources are described in `files.py`, and what a value of a
    row is in `cells.py`; sources may also be lists of dicts or `datasets.Dataset`s. Raises ConfigError for
    whatever is wrong with them.
    """

    def __init__(
        self,
        *,
        train: Source | None = None,
        validation: Source | None = None,
        test: Source | None = None,
        warmup: Source | None = None,
        prompt: str = "prompt",
        completion: str | None = None,
        rejected: str | None = None,
        system: str | None = None,
        chat: bool = False,
        num_train: int | None = None,
        num_validation: int = 100,
        num_test: int = 0,
        num_warmup: int = 0,
        reward: Rewards = "math_answer",
        metric: str = "reward",
        seed: int = 0,
    ) -> None:
        if (num_warmup or warmup is not None) and completion is None:
            asked = "task.warmup" if warmup is not None else f"task.num_warmup = {num_warmup}"
            raise ConfigError(
                f"{asked} needs task.completion, the column or template that the warm start is trained on;"
                " set it, or leave the setting out"
            )
        if rejected is not None and completion is None:
            raise ConfigError(
                f"task.rejected = {rejected!r} needs task.completion, the chosen one of each pair; set it"
            )
        self.reward, self.metric = reward, metric
        self._prompt, self._completion, self._rejected = prompt, completion, rejected
        self._system, self._chat = system, chat
        self._solved_apart = warmup is not None
        everything = [] if train is None else self._examples(train, "train")
        self.validation = [] if validation is None else self._examples(validation, "validation")
        self.test = [] if test is None else self._examples(test, "test")
        self.train: list[Example] = []
        self.warmup: list[Example] = []
        if warmup is not None:
            self.warmup, num_warmup = self._solved(warmup, num_warmup), 0
        if train is None:
            if not self.test:
                raise ConfigError(
                    "task.train and task.test are both null; name rows to learn from, or rows to evaluate on"
                )
            return check_disjoint(self)
        held_out = num_validation if validation is None else 0
        tested = num_test if test is None else 0
        wanted = {"num_warmup": num_warmup, "num_validation": held_out} | (
            {"num_test": tested} if tested else {}
        )
        check_enough(everything, "task.train", **wanted)
        shuffled = [everything[i] for i in stream(seed, "rows", "split").permutation(len(everything))]
        self.warmup, shuffled = self.warmup + shuffled[:num_warmup], shuffled[num_warmup:]
        self.validation, shuffled = self.validation + shuffled[:held_out], shuffled[held_out:]
        self.test, shuffled = self.test + shuffled[:tested], shuffled[tested:]
        self.train = shuffled[:num_train]
        check_splits(self)

    def _solved(self, warmup: Source, count: int) -> list[Example]:
        """The first `count` rows for the warm start, or all for 0."""
        solved = self._examples(warmup, "warmup")
        if count > len(solved):
            raise ConfigError(
                f"task.num_warmup = {count}, but task.warmup has {len(solved)} distinct rows; lower it, or"
                " set it to 0 to use them all"
            )
        return solved[: count or None]

    def _examples(self, source: Source, split: str) -> list[Example]:
        """The examples of a source, without pairs of equals and those whose prompt came before."""
        rows = read_rows(source, f"task.{split}", "train" if split == "warmup" else split)
        examples: dict[str, Example] = {}
        equal = 0
        for example in self._read_all(rows, solved=split == "warmup" or not self._solved_apart):
            if example.rejected is not None and example.rejected == example.completion:
                equal += 1
            else:
                examples.setdefault(prompt_key(example.prompt), example)
        if equal == len(rows):
            raise ConfigError(
                f"task.{split}: in all {equal} rows task.rejected = {self._rejected!r} is the same text as"
                f" task.completion = {self._completion!r}; name the column of the worse completion"
            )
        if equal:
            log.warning("task.%s: left out %d pairs whose two completions are equal", split, equal)
        if repeated := len(rows) - equal - len(examples):
            log.warning("task.%s: left out %d rows whose prompt came before", split, repeated)
        return list(examples.values())

    def _read_all(self, rows: Sequence[Row], solved: bool) -> Iterator[Example]:
        """The examples. One refused row refuses all; ConfigError names the rows."""
        refused: dict[int, ConfigError] = {}
        for number, row in enumerate(rows, start=1):
            try:
                yield self._example(row, number, solved)
            except ConfigError as error:
                refused[number] = error
                if len(refused) == MOST_REFUSED:
                    break
        if refused:
            first, *others = refused
            more = f" (refused for such reasons too: rows {', '.join(map(str, others))})" if others else ""
            raise ConfigError(f"{refused[first]}{more}") from refused[first]

    def _example(self, row: Row, number: int, solved: bool) -> Example:
        prompt = self._rendered_prompt(row, number)
        completion = self._completion if solved or _has(self._completion, row) else None
        return Example(
            id=hashlib.blake2b(prompt_key(prompt).encode(), digest_size=8).hexdigest(),
            prompt=prompt,
            completion=_answer(completion, prompt, row, number, "task.completion"),
            rejected=_answer(self._rejected, prompt, row, number, "task.rejected"),
            columns={k: value for k, value in row.items() if k not in {self._prompt, *RESERVED}},
        )

    def _rendered_prompt(self, row: Row, number: int) -> Prompt:
        # One column for both is a whole dialogue, whose last turn is the completion.
        read = without_last_turn if self._prompt == self._completion else cell
        value: Prompt = _read(read, self._prompt, row, number, "task.prompt")
        if not isinstance(value, str):
            messages = value
        elif self._chat:
            messages = [{"role": "user", "content": value}]
        elif self._system is not None:
            raise ConfigError(
                "task.system needs prompts that are chat messages; set task.chat = true, or put"
                " the text into task.prompt"
            )
        else:
            return value
        if self._system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system}, *messages]
        return messages


def _has(template: str | None, row: Row) -> bool:
    """Whether a row has the column that is meant; True for a template, whose columns are looked up later."""
    return template is None or "{" in template or row.get(template) is not None


def _answer(template: str | None, prompt: Prompt, row: Row, number: int, field: str) -> str | None:
    """The text of a completion, None where no column is named for it; ConfigError if it is empty."""
    if template is None:
        return None
    said: str = _read(partial(completion_after, prompt), template, row, number, field)
    if not said.strip():
        raise ConfigError(
            f"{field} = {template!r} is empty in row {number}, so there is nothing to learn from it;"
            " remove the row"
        )
    return said


def _read(read: Callable[[Any], T], template: str, row: Row, number: int, field: str) -> T:
    """What `read` makes of a column's value, or of a template with the texts of columns filled in."""
    if "{" not in template:
        return as_cell(read, column(row, template, number, field), template, number, field)
    return as_cell(read, _filled(template, row, number, field), template, number, field)


def _filled(template: str, row: Row, number: int, field: str) -> str:
    """A template with the row's columns filled in."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{field} = {template!r} is no template: {error}") from error
    for name in names:
        root = name.split("[")[0].split(".")[0]
        if not root or root.isdigit():
            raise ConfigError(
                f"{field} = {template!r}: braces need a column's name; write literal ones doubled,"
                r" as in \boxed{{}}"
            )
        column(row, root, number, field)
    try:
        return _Texts(number, field).vformat(template, (), row)
    except ConfigError:
        raise
    except (LookupError, AttributeError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(
            f"{field} = {template!r} does not fit row {number}: {type(error).__name__}: {error}"
        ) from error


class _Texts(Formatter):
    """Fills a template with the texts of cells; a cell that is no text is refused."""

    def __init__(self, number: int, field: str) -> None:
        self._number, self._field = number, field

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, root = super().get_field(field_name, args, kwargs)
        as_cell(text, value, field_name, self._number, self._field)
        return value, root

    def format_field(self, value: Any, format_spec: str) -> str:
        if WIDE.search(format_spec):
            raise ValueError(f"the format {shown(format_spec)} is wider than 999; pad texts in the column")
        return format(value, format_spec) if format_spec else text(value)
