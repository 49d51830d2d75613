"""Grading: find the final answer in a completion and compare it with the gold answer.

Pure functions of strings. `math_equal` calls math_verify, which guards itself with SIGALRM and so
works only in a process' main thread, and can hang in C code all the same: call it from a reward,
which runs in a worker process that can be killed.
"""

import re
from fractions import Fraction

SIGN = r"(?:(?<![\w)])-)?"  # in 9-3 the minus is not the sign of a number
WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = re.compile(rf"{SIGN}(?:{WHOLE}(?:\.\d+)?|\.\d+)(?:/\d+(?![\d.]))?")
FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
MARKED = re.compile(r"####[ \t]*([^\n]*)")
ORNAMENTS = (
    (r"\\[,!;: ]|\{,\}|\\left|\\right|~", lambda match: "," if match[0] == "{,}" else ""),
    (r"\\?[$€£]|\\?%|\\[()\[\]]", ""),
    (r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1 "),
    (r"(?<=\d)\\(?=[dt]?frac)", r" \\"),  # a mixed number: 3\frac12 is not 31/2
    (FRACTION, lambda match: f"{match[1] or match[2]}/{match[3] or match[4]}"),
    ("[−–]", "-"),
)


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` (or `\fbox{...}`), None where there is none.

    >>> boxed(r"so \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    content = None
    for match in re.finditer(r"\\f?boxed\s*\{", text):
        depth, start = 1, match.end()
        for position in range(start, len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0:
                content = text[start:position].strip()
                break
    return content


def marked_answer(text: str) -> str | None:
    r"""What the text marks as its answer: the last `\boxed{...}`, else the last `#### ...`."""
    answer = boxed(text)
    if answer is None and (marks := MARKED.findall(text)):
        answer = marks[-1].strip()
    return answer


def final_answer(text: str) -> str | None:
    """The marked answer, else the last number of the text, else None."""
    answer = marked_answer(text)
    return answer if answer is not None else last_number(text)


def last_number(text: str) -> str | None:
    """The last number of the text as it is written there, without currency and per cent signs."""
    numbers = NUMBER.findall(plain(text))
    return numbers[-1] if numbers else None


def plain(text: str) -> str:
    r"""The text without mathematical ornaments: `\$1{,}234` is `1,234`, `\frac{1}{2}` is `1/2`."""
    for pattern, replacement in ORNAMENTS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def to_number(text: str) -> Fraction | None:
    r"""The exact value of a text that is one number, None if it is anything else.

    Thousands separators, a currency sign, a per cent sign (12% is 12), a final full stop and a
    fraction are understood.

    >>> to_number("$1,234.50") == to_number("1234.5")
    True
    """
    text = plain(text).rstrip(".").removeprefix("+").replace("- ", "-").strip()
    if not NUMBER.fullmatch(text):
        return None
    try:
        return _value(text)
    except ZeroDivisionError:
        return None


def numbers_equal(gold: str, answer: str | None) -> bool:
    """Whether the answer's number is the gold number, exactly (5.0 is 5, 0.5 is 1/2).

    An answer with words around it ("18 dollars", "3 + 4 = 7") stands for its last number.
    False if either has no number.
    """
    if answer is None:
        return False
    expected, given = to_number(gold), to_number(answer)
    if given is None and (number := last_number(answer)) is not None:
        given = to_number(number)
    return expected is not None and expected == given


def math_equal(gold: str, text: str) -> bool:
    r"""Whether the final answer of the completion `text` means the same as `gold`.

    `gold` is the bare answer, or a solution that marks it. Equal strings and equal numbers are
    decided at once, different numbers too; everything else (fractions with roots, sets, intervals,
    expressions) is compared by math_verify, which takes milliseconds to seconds.
    """
    marked_gold = marked_answer(gold)
    expected = (gold if marked_gold is None else marked_gold).strip().strip("$").strip()
    answer = marked_answer(text)
    expected_number = to_number(expected)
    if answer is None and expected_number is not None:
        answer = last_number(text)
    if answer is not None:
        if "".join(plain(answer).split()) == "".join(plain(expected).split()):
            return True
        given_number = to_number(answer)
        if expected_number is not None and given_number is not None:
            if expected_number == given_number:
                return True
            if "%" not in expected + answer:
                return False
    elif expected_number is not None or not text.strip():
        return False
    return _verified(expected, answer, text)


def _verified(expected: str, answer: str | None, text: str) -> bool:
    """What math_verify says of the answer, or of the whole text where nothing is marked."""
    from math_verify import parse, verify

    given = parse(text if answer is None else f"\\boxed{{{answer}}}")
    return bool(given) and bool(verify(parse(f"\\boxed{{{expected}}}"), given))


def _value(number: str) -> Fraction:
    numerator, _, denominator = number.replace(",", "").partition("/")
    return Fraction(numerator) / Fraction(denominator or 1)
