r"""Numbers: what number a piece of text states, and whether it states one at all.

A range (`5-7`), a time (`3:30`), a list (`5 and 7`) or an inequality (`< 7`) is no number, although numbers
are in it: whoever answers so has not said 7. Neither is a sum or a root, which mathematics has to evaluate.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from evolign.rewards.notation import LONGEST, WORD_OF_UNIT, plain
from evolign.rewards.units import currency_before, unit_after

PART = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?![\w.]))?"
MANY = 200
"""Characters of a number that is not read: Python refuses some thousand digits."""
UNIT = r"(?:\s?%|\s?[A-Za-z]{1,12}[²³]?\.?)?"
LINK = (
    r"\s*[-+*/~±^]\s*|:(?=\d)|\s:\s|\s*\.\.+\s*|\s*[xX]\s*(?=[\d.])|,(?=\d)|\s*;\s*|,\s+(?=\S*\s*$)"
    rf"|[ ]+(?=\d)|{UNIT}\s*(?:,\s*)?(?:\b(?:and|or|to|through|until|by|vs|[xX])\b|[-&*])\s*"
)
CHAIN = re.compile(rf"(?<![A-Za-z\d_.²³]){PART}(?:(?:{LINK}){PART})*")
"""Numbers in a row with nothing but links between them."""
THOUSANDS = re.compile(
    r"(?<![\d.,'])(?:\d{1,3}(?:(?:,\d{3})+|(?:'\d{3})+)|\d\d?(?:,\d\d)+,\d{3})(?!\d|[,']\d)"
)
EXPONENT_OF_UNIT = re.compile(r"(?<=[A-Za-z)])\s*\^\s*[-+]?(\d+)")
POWERS = {"2": "²", "3": "³"}
DIVIDED_UNIT = re.compile(rf"(\d){WORD_OF_UNIT}\s*/\s*(\d[\d.,]*)(?![\w.])")
MINUS = re.compile(r"(?:\b(?:minus|negative)|(?:^|[=(:]|\bis)\s*-)\s+$", re.IGNORECASE)
"""A minus apart from its number; elsewhere such a stroke is a dash."""
SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "mn": 10**6, "bn": 10**9, "k": 10**3, "M": 10**6,
}  # fmt: skip
SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)\b|\s?(mn|bn)\b|(k|M)\b(?!/)")
UNEVALUATED_BEFORE = re.compile(
    r"\\[a-zA-Z]+\s*[\[({]*\s*$"  # the argument of a command: \sqrt{
    r"|[\w)\]}!]\s*[*/^+]\s*$|(?<![A-Za-z])[A-Za-z)\]}]\s*-\s*$"  # the rest of a sum: x +
    r"|(?<![\w'])[A-Za-z]\($"  # of a function: f(
)
UNEVALUATED_AFTER = re.compile(
    r"\s*(?:\*\s*)?(?:\\(?!%)[a-zA-Z]+|[xyz]\b(?!-))|\s*[\^_]|\(\s*[\d\\]"
    r"|(?:[abcefijnopqrvw]|pi)\b|\.\d|\s*[*/+]\s*[(\\A-Za-z]\b"
)
HEDGED = re.compile(
    r"[<±]\s*=?\s*$|(?:\bnot|n't)\s+$|\bbetween\b[^.;\n]*\band\s+$|\band\s+(?:at most|at least|up to)\s+$"
    r"|[A-Za-z]\s*=[^=\n]*(?:[,;]|\b(?:and|or)\b)\s*\\?[A-Za-z]\w*\s*=\s*$"  # x = 5, y =
)
BOUND = re.compile(r"\+(?!\s*[\w(\\])|\s*<\s*=?\s*(?:[A-Za-z]\b(?!\s*<)|[-\d]|$)")
"""After a number that is only a bound: 18+, 18 < x."""
SEVERAL_EQUATIONS = re.compile(r"=[^=]*(?:[,;]|\b(?:and|or)\b)[^=]*=")
REMARK = re.compile(r"(\d\S*(?:\s+[^\s()]+){0,2})\s+\([^()]*[A-Za-z]{2}[^()]*\)\s*\.?$")


@dataclass(frozen=True)
class Quantity:
    """What a text states: a number, several (as a range does), or something to evaluate."""

    kind: Literal["number", "several", "expression"]
    values: frozenset[Fraction] = frozenset()
    """The number; two where gold may be either: 12 % is 12 or 0.12, 5 million is 5 (million) or 5,000,000."""
    written: str = ""
    """How several are written in one word: a time, a range or a date is equal to itself."""
    unit: str = ""
    """Its unit of measure, if it has one that `units.py` knows."""


EXPRESSION = Quantity("expression")


def quantity(text: str, *, answer: bool) -> Quantity | None:
    r"""What `text` states, None where it holds no number.

    A text with words around its number ("18 dollars", "3 + 4 = 7") states the last one. `answer`: the text is
    an answer and nothing else, so that a command left in it (`2\pi`, `\binom{4}{2}`) makes it an expression.

    >>> quantity("18 cm²", answer=True)
    Quantity(kind='number', values=frozenset({Fraction(18, 1)}), written='', unit='cm²')
    >>> quantity("5-7", answer=True).kind, quantity("9 * 2", answer=True).kind
    ('several', 'expression')
    """
    currency = currency_before(text[-LONGEST:])
    text = REMARK.sub(r"\1", plain(text[-LONGEST:]))
    if answer:
        text = DIVIDED_UNIT.sub(r"\1/\3 \2", text)
        text = re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", text)
        last = text if SEVERAL_EQUATIONS.search(text) else text.rpartition("=")[2]
        text = last if CHAIN.search(last) else text
    text = THOUSANDS.sub(lambda match: re.sub("[,']", "", match[0]), text)
    text = EXPONENT_OF_UNIT.sub(lambda match: POWERS.get(match[1], ""), text)
    chains = list(CHAIN.finditer(text))
    if not chains:
        return None
    chain = chains[-1]
    before, after = text[: chain.start()], text[chain.end() :]
    if HEDGED.search(before) or BOUND.match(after):
        return Quantity("several")
    if UNEVALUATED_BEFORE.search(before) or UNEVALUATED_AFTER.match(after):
        return EXPRESSION
    if answer and re.search(r"\\[a-zA-Z]", text):
        return EXPRESSION
    stated = _stated(chain[0], bool(MINUS.search(before)), after)
    return replace(stated, unit=currency or unit_after(after)) if stated.kind == "number" else stated


def _stated(chain: str, negative: bool, after: str) -> Quantity:
    """The number that a chain is one notation of, with its sign and with the scale that follows it."""
    negative = negative or chain.startswith("-")
    value = _value(chain.lstrip("+-"), "-" if negative else "+")
    if isinstance(value, Quantity):
        return value
    if negative:
        value = -value
    if re.match(r"\s*%", after):
        return Quantity("number", frozenset({value, value / 100}))
    scale = SCALE.match(after)
    factor = SCALES[next(filter(None, scale.groups()))] if scale else 1
    return Quantity("number", frozenset({value, value * factor}))


def _value(chain: str, sign: str) -> Fraction | Quantity:
    """The value of a number, a fraction, a mixed number, a power or a number in scientific notation.

    `sign` stands between whole and fraction where a mixed number is written as a sum.
    """
    if len(chain) > MANY:
        return EXPRESSION
    if re.fullmatch(PART, chain):
        return Fraction(chain)
    if match := re.fullmatch(
        rf"(?:(\d+)(?:\s+(?:(?:and|&)\s+)?|\s*[{sign}]\s*))?({PART})\s*/\s*({PART})", chain
    ):
        above, below = Fraction(match[2]), Fraction(match[3])
        if not below or (match[1] and above >= below):
            return EXPRESSION
        return int(match[1] or 0) + above / below
    if match := re.fullmatch(rf"(?:({PART})\s*[*xX]\s*)?(\d{{1,9}})\s*\^\s*([-+]?\d{{1,2}})", chain):
        base, power = int(match[2]), int(match[3])
        if base or power > 0:
            return Fraction(match[1] or 1) * Fraction(base) ** power
    if re.search(r"[:~,;]|\.\.|[a-z]{2}|\d \d", chain) or _is_range(chain):
        return Quantity("several", written="" if re.search("[,; ]", chain) else chain)
    return EXPRESSION


def _is_range(chain: str) -> bool:
    """Whether numbers with strokes between them go up, as a range does, or are a date."""
    if re.fullmatch(r"\d{4}-\d\d?-\d\d?", chain):
        return True
    ends = re.fullmatch(rf"({PART}){UNIT}\s*-\s*({PART})", chain)
    return ends is not None and Fraction(ends[1]) < Fraction(ends[2])
