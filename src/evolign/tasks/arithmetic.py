"""Arithmetic on one- and two-digit numbers: problems with a careful and a sloppy solution each.

A careful solution works digit by digit and is right. A sloppy one answers at once and forgets
the carry (or the borrow), which is right only where there is none. Four kinds of problems:

    addition        67 + 85 = ?
                    careful  7+5=12, 6+8+1=15 #### 152
                    sloppy   #### 142
    subtraction     83 - 47 = ?
                    careful  13-7=6, 8-4-1=3 #### 36
                    sloppy   #### 46
    multiplication  47 * 6 = ?
                    careful  7*6=42, 4*6=24, 24+4=28 #### 282
                    sloppy   #### 242
    story           Mia has 83 coins and gives away 47. How many are left?
                    careful  13-7=6, 8-4-1=3 #### 36
                    sloppy   #### 46

Train, validation and test are disjoint by construction: an operator with its operands, in any order
and wording, belongs to exactly one split, by a hash.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import add, mul, sub

import numpy as np

from evolign.errors import ConfigError, unknown_name
from evolign.seeding import stream
from evolign.tasks.generated import pick, split_of
from evolign.types import Example

Pair = tuple[int, int]

MARKER = "####"
COMPUTE: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}
SYMBOLS = {"addition": "+", "subtraction": "-", "multiplication": "*"}
OPERATIONS = (*SYMBOLS, "story")

NAMES = ("Mia", "Tom", "Ana", "Ben", "Lea", "Max", "Zoe", "Sam")
THINGS = ("coins", "books", "cards", "pens", "apples", "stamps", "shells", "cups")
FORMULAS = {
    "+": ("{x} + {y} = ?",),
    "-": ("{x} - {y} = ?",),
    "*": ("{x} * {y} = ?", "{y} * {x} = ?"),
}
STORIES = {
    "+": (
        "{name} has {x} {things} and gets {y} more. How many now?",
        "{name} buys {x} {things} and then {y}. How many in all?",
    ),
    "-": (
        "{name} has {x} {things} and gives away {y}. How many are left?",
        "{name} needs {x} {things} and has {y}. How many are missing?",
    ),
    "*": (
        "{name} fills {y} boxes with {x} {things} each. How many in all?",
        "{name} buys {x} {things} a day for {y} days. How many in all?",
    ),
}

EASY_SHARE = 0.2  # of all problems: no carry, so that the sloppy answer is right
ATTEMPTS_PER_PROBLEM = 200  # draws without a new text, after which a split counts as exhausted


@dataclass(frozen=True)
class Problem:
    """A question, the right answer, and two ways to solve it."""

    kind: str
    prompt: str
    answer: str
    careful: str
    sloppy: str

    @property
    def wrong(self) -> str:
        """The sloppy solution, or one whose result is ten too high where the sloppy one is right."""
        right = f"{MARKER} {self.answer}"
        return self.sloppy if self.sloppy != right else f"{MARKER} {int(self.answer) + 10}"


class Arithmetic:
    """The task: problems of the kinds `operations` (None: all) in equal parts, in random order.

    The warm-up examples, whose completion is the careful solution, are training problems that
    `train` does not hold. With `solved` the rows of the other splits have it too, and with it a wrong
    one, `rejected`: the sloppy solution, or where that is right one that is off by ten. Raises
    ConfigError if a kind is unknown or a split has too few problems.
    """

    metric = "accuracy"
    reward = "arithmetic_answer"

    def __init__(
        self,
        *,
        num_train: int = 2000,
        num_validation: int = 200,
        num_test: int = 500,
        num_warmup: int = 48,
        solved: bool = False,
        operations: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        kinds = OPERATIONS if operations is None else tuple(operations)
        if not kinds:
            raise ConfigError(f"task.operations is empty; name some of {', '.join(OPERATIONS)}")
        for kind in kinds:
            if kind not in OPERATIONS:
                raise unknown_name("operation", kind, OPERATIONS)
        learning = distinct_problems("train", kinds, num_warmup + num_train, seed)
        validation = distinct_problems("validation", kinds, num_validation, seed)
        test = distinct_problems("test", kinds, num_test, seed)
        self.warmup = _examples("warmup", learning[:num_warmup], solved=True)
        self.train = _examples("train", learning[num_warmup:], solved=solved, pairs=solved)
        self.validation = _examples("validation", validation, solved=solved, pairs=solved)
        self.test = _examples("test", test, solved=solved, pairs=solved)


def distinct_problems(split: str, kinds: Sequence[str], count: int, seed: int) -> list[Problem]:
    """`count` problems of a split, no text twice, the kinds in equal parts, in random order."""
    rng = stream(seed, "arithmetic", split)
    problems: dict[str, Problem] = {}
    for i in range(count):
        kind = kinds[i % len(kinds)]
        for _ in range(ATTEMPTS_PER_PROBLEM):
            problem = draw_problem(rng, split, kind)
            if problem.prompt not in problems:
                problems[problem.prompt] = problem
                break
        else:
            raise ConfigError(
                f"the {split} split of the arithmetic task has too few problems of kind {kind!r} "
                f"for {count} problems of the kinds {', '.join(kinds)}; ask for fewer"
            )
    drawn = list(problems.values())
    return [drawn[i] for i in rng.permutation(count)]


def draw_problem(rng: np.random.Generator, split: str, kind: str) -> Problem:
    """A random problem of one kind from a split."""
    symbol = SYMBOLS[kind] if kind in SYMBOLS else pick(rng, tuple(STORIES))
    hard, easy = _operand_pairs(split, symbol)
    x, y = pick(rng, easy if rng.random() < EASY_SHARE else hard)
    wording = pick(rng, STORIES[symbol] if kind == "story" else FORMULAS[symbol])
    text = wording.format(name=pick(rng, NAMES), things=pick(rng, THINGS), x=x, y=y)
    return _solve(kind, f"{text}\n", symbol, x, y)


def _solve(kind: str, prompt: str, symbol: str, x: int, y: int) -> Problem:
    """The problem `x symbol y` under the given prompt, with both of its solutions."""
    compute, carry = COMPUTE[symbol], _carry(symbol, x, y)
    tens_x, units_x = divmod(x, 10)
    tens_y, units_y = (y, y) if symbol == "*" else divmod(y, 10)
    if symbol == "-":
        units_x -= 10 * carry
    steps = [f"{units_x}{symbol}{units_y}={compute(units_x, units_y)}"]
    tens = compute(tens_x, tens_y)
    if symbol == "*" and carry:
        steps += [f"{tens_x}*{tens_y}={tens}", f"{tens}+{carry}={tens + carry}"]
    else:
        carried = f"{carry:+d}" if carry else ""
        steps += [f"{tens_x}{symbol}{tens_y}{carried}={tens + carry}"]
    right = compute(x, y)
    return Problem(
        kind=kind,
        prompt=prompt,
        answer=str(right),
        careful=f"{', '.join(steps)} {MARKER} {right}",
        sloppy=f"{MARKER} {right - 10 * carry}",
    )


def _carry(symbol: str, x: int, y: int) -> int:
    """What the units hand to the tens: a carry (0 to 8) or a borrow (0 or -1)."""
    return COMPUTE[symbol](x % 10, y % 10) // 10


@cache
def _operand_pairs(split: str, symbol: str) -> tuple[list[Pair], list[Pair]]:
    """The operand pairs (x, y) of a split: those with a carry or borrow, and those without."""
    hard: list[Pair] = []
    easy: list[Pair] = []
    for x in range(10, 100):
        for y in {"+": range(10, 100), "-": range(10, x), "*": range(2, 10)}[symbol]:
            if split_of(f"{min(x, y)}{symbol}{max(x, y)}") == split:  # whatever their order
                (hard if _carry(symbol, x, y) else easy).append((x, y))
    return hard, easy


def _examples(
    split: str, problems: Sequence[Problem], *, solved: bool = False, pairs: bool = False
) -> list[Example]:
    """The problems as examples; `solved` ones carry the careful solution, `pairs` a wrong one too."""
    return [
        Example(
            id=f"{split}-{i}",
            prompt=problem.prompt,
            completion=problem.careful if solved else None,
            rejected=problem.wrong if pairs else None,
            columns={"answer": problem.answer, "kind": problem.kind},
        )
        for i, problem in enumerate(problems)
    ]
