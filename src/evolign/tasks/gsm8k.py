r"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems with a number as answer.

A row of the training file, as it is published (MIT licence, openai/grade-school-math):

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many
     clips in May. How many clips did Natalia sell altogether in April and May?",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 =
     <<48+24=72>>72 clips altogether in April and May.\n#### 72"}

Differs from the ESSA paper: there validation is the test set (1319 rows), and evolution has the
5978 training rows that the 1495 of the warm start leave. Here validation is a third, disjoint part
of the training file, so that the test set is seen once, at the end.
"""

import re
from collections.abc import Sequence

from evolign.config.tasks import INSTRUCTION
from evolign.errors import ConfigError
from evolign.seeding import stream
from evolign.tasks.base import check_splits
from evolign.tasks.files import Row, check_enough, column, read_rows, text_column
from evolign.types import Example

HUB_NAME = "openai/gsm8k"
CALCULATION = re.compile(r"<<[^<>]*>>")


class Gsm8k:
    """The GSM8K task: the question and an instruction as a chat message, graded by the number.

    `train` and `test` are JSONL files or hub names. Warm-up, validation and training examples are
    disjoint parts of `train`, drawn by `seed`; None takes all the rows that are left.
    """

    metric = "accuracy"
    reward = "gsm8k_answer"

    def __init__(
        self,
        *,
        train: str = HUB_NAME,
        test: str = HUB_NAME,
        num_warmup: int = 1495,
        num_validation: int = 256,
        num_train: int | None = None,
        num_test: int | None = None,
        instruction: str = INSTRUCTION,
        seed: int = 0,
    ) -> None:
        rows = _distinct(read_rows(_with_configuration(train), "task.train", "train"))
        check_enough(rows, "task.train", num_warmup=num_warmup, num_validation=num_validation)
        shuffled = stream(seed, "gsm8k", "split").permutation(len(rows)).tolist()
        chosen = num_warmup + num_validation

        def examples(indices: Sequence[int], *, solved: bool = False) -> list[Example]:
            return [_example("train", rows[i], i, instruction, solved) for i in indices]

        self.warmup = examples(shuffled[:num_warmup], solved=True)
        self.validation = examples(shuffled[num_warmup:chosen])
        self.train = examples(shuffled[chosen:][:num_train])
        test_rows = _distinct(read_rows(_with_configuration(test), "task.test", "test"))
        self.test = [
            _example("test", row, i, instruction, solved=False) for i, row in enumerate(test_rows[:num_test])
        ]
        check_splits(self)


def solution(answer: str) -> tuple[str, str]:
    r"""The worked solution of an answer field, ending in `\boxed{N}`, and the number N.

    Raises ValueError if the field does not end in `#### N`.
    """
    rationale, marker, number = answer.rpartition("####")
    if not marker or not number.strip():
        raise ValueError("the answer does not end in '#### N'")
    steps = CALCULATION.sub("", rationale).strip()
    return f"{steps}\nThe answer is \\boxed{{{number.strip()}}}.", number.strip()


def _example(split: str, row: Row, index: int, instruction: str, solved: bool) -> Example:
    """The example of a row; with `solved` it carries the worked solution."""
    question = text_column(row, "question", index + 1, f"task.{split}")
    answer = column(row, "answer", index + 1, f"task.{split}")
    if not isinstance(answer, str):
        raise ConfigError(
            f"task.{split}: row {index + 1}: the answer is a {type(answer).__name__}; it must be a"
            " text that ends in '#### N'"
        )
    try:
        worked, number = solution(answer)
    except ValueError as error:
        raise ConfigError(f"task.{split}: row {index + 1}: {error}; is this GSM8K?") from error
    return Example(
        id=f"{split}-{index}",
        prompt=[{"role": "user", "content": f"{question}\n{instruction}"}],
        completion=worked if solved else None,
        columns={"answer": number},
    )


def _distinct(rows: list[Row]) -> list[Row]:
    """The rows without those whose question came before."""
    first: dict[str, Row] = {}
    for i, row in enumerate(rows):
        first.setdefault(str(row.get("question", i)), row)  # rows without one are refused later
    return list(first.values())


def _with_configuration(source: str) -> str:
    """The hub holds GSM8K in two configurations; `main` is the one that everybody means."""
    return f"{HUB_NAME}:main" if source == HUB_NAME else source
