r"""Notation: one plain spelling for what LaTeX, Markdown, HTML and Unicode write in many ways.

`\$1{,}234`, `**1,234**`, `１,２３４` and `\boxed{\text{1,234}}` all become `1,234`. What has a meaning of its
own stays a command (`\sqrt{2}`, `\pi`), so that nobody takes the 2 for a number.
"""

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

Replacement = str | Callable[[re.Match[str]], str]

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
SIGNS = str.maketrans(
    dict.fromkeys("−–—‐‑‒﹣－", "-")
    | dict.fromkeys("×⋅·∙∗✕", "*")
    | dict.fromkeys("≈≃≅⇒→⟹", "=")
    | dict.fromkeys("≤≥≠<>⩽⩾", "<")
    | dict.fromkeys("“”„«»″", '"')
    | dict.fromkeys("‘’‚′`", "'")
    | {"÷": "/", "⁄": "/", "∶": ":", "∼": "~", "。": ".", "、": ",", "π": r"\pi ", "√": r"\sqrt "}
    | {"\u200b": None, "\u200c": None, "\u200d": None, "\u2060": None, "\ufeff": None}
)
STYLES = (
    "text|textrm|textbf|textit|textsf|texttt|textnormal|emph|underline|mathrm|mathbf|mathit|mathsf|mathtt"
    "|mathcal|mathnormal|operatorname|boldsymbol|bm|pmb|mbox|hbox|boxed|fbox|framebox|ensuremath|textcolor"
)
TAGS = "b|i|u|em|strong|span|p|br|div|code|mark|font|center|small|big|answer|think"
LONGEST = 1000
"""Characters of an answer at most: what is longer is compared as it is."""
OF_UNITS = r"(?![a-cnx-z]\b)[A-Za-z]{1,5}(?:\s*\^\s*\{?\d\}?)?"
WORD_OF_UNIT = r"\s{0,3}(?![xyz]\b|pi\b)([A-Za-z]{2,12}|(?<=\s)[A-Za-z])"
AMOUNT = r"(?:[-+]?\s*(?:\d[\d,]{0,40}(?:\.\d{1,40})?|\.\d{1,40}))"


def _fraction(match: re.Match[str]) -> str:
    """A fraction of two numbers as `n/d`, with the sign in front; anything else as it is."""
    above, below = (
        Fraction(re.sub(r"[\s,]", "", match[i] or match[i + 1]).removeprefix("+")) for i in (1, 3)
    )
    if not below:
        return match[0]
    value = above / below
    whole = re.fullmatch(r"\d+", f"{above}{below}") is not None
    return f" {above}/{below} " if whole else f" {value.numerator}/{value.denominator} "


def _fraction_of_units(match: re.Match[str]) -> str:
    r"""`\frac{18 m}{2 s}` as `18/2 m/s`."""
    above, unit, below, per = match.groups()
    return f" {above}/{below} {unit + (f'/{per}' if per else '') if unit else ''} "


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    whole, fixed, again = match[1] or "0", match[2], match[3]
    shift = 10 ** len(fixed)
    value = Fraction(int(whole + fixed), shift) + Fraction(int(again), shift * (10 ** len(again) - 1))
    return f" {value.numerator}/{value.denominator} "


UNICODE: tuple[tuple[str, Replacement], ...] = (
    (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda match: "^" + match[0].translate(SUPERSCRIPTS)),
    (r"[¼-¾⅐-⅞]", lambda match: " " + unicodedata.normalize("NFKC", match[0])),
    (r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))", ""),
)
ORNAMENTS: tuple[tuple[str, Replacement], ...] = (
    (r"<<[^<>]*(?:=[^<>]*>>|>>(?=\s*[-$]?\d))", ""),  # GSM8K's calculator annotations
    (r"<{1,2}\s*([-+]?\\?\$?\d[\d.,/]*%?)\s*>{1,2}", r" \1 "),
    (r"<sup>\s*(-?\w+)\s*</sup>", r"^\1"),
    (rf"</?(?:{TAGS})\b[^<>]*>", " "),
    (r"<([A-Za-z][\w-]*)>([^<>]*)</\1>", r" \2 "),
    (r"~~[^~]*~~", " "),
    (r"(?<=\d)\s*\*\*\s*(?=\d)", "^"),
    (r"[-=]+>", "="),
    (r"\*\*|(?<!\w)__|__(?!\w)|`", ""),
    (r"(?<![\w*])\*(?=\S)([^*\n]*\S)\*(?![\w*])", r"\1"),
    (r"(?<!\w)_([^_\n]+)_(?!\w)", r"\1"),
)
LATEX: tuple[tuple[str, Replacement], ...] = (
    (r"\\\\(?=[a-zA-Z])", r"\\"),  # escaped twice, as in JSON
    (r"\\\\", " "),
    (r"\\!|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\displaystyle|\\limits", ""),
    (r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))", ""),
    (r"\\[,;: ]|\\q?quad(?![a-z])", " "),
    (r"(?<!\d)\s*~|~\s*(?!\s*\d)", " "),
    (r"\{([,:;])\}", r"\1"),
    (r"\s*\\colon(?![a-z])\s*", ":"),
    (r"(?<=\d)_(?=\d{3}(?!\d))", ""),
    (r"\\textcolor\s*\{[^{}]*\}", r"\\text"),
    (r"\\color\s*\{[^{}]*\}|\\(?:bf|rm|it|tt|sf|bfseries|itshape)(?![a-zA-Z])", ""),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-z])|°", " degrees "),
    (r"\\(?:times|cdot|ast)(?![a-z])", "*"),
    (r"\\div(?![a-z])", "/"),
    (r"\\(?:approx|simeq|cong|doteq|implies|Rightarrow|Longrightarrow|to|rightarrow)(?![a-zA-Z])", "="),
    (r"\\(?:leq?|geq?|lt|gt|neq?|leqslant|geqslant)(?![a-z])", "<"),
    (r"\\pm(?![a-z])", "±"),
    (r"\\[lc]?dots(?![a-z])", "..."),
    (r"(\d{0,9})\.(\d{0,9})\s*\\overline\s*\{\s*(\d{1,9})\s*\}", _repeating),
    (r"([-+])\s*(?:\\?[$€£¥₹]|\\pounds|\\euro)\s*(?=[\d.])", r"\1"),
    (r"\\?[$€£¥₹]|\\(?:pounds|euro)(?![a-z])|\\[()\[\]]|\b(?:Rs\.?|USD|EUR|GBP|INR)\s*(?=\d)", " "),
    (r"\\%|\bper\s?cent\b|%", "%"),
)
NESTED: tuple[tuple[str, Replacement], ...] = (
    (rf"\\(?:{STYLES})\s*\{{([^{{}}]*)\}}", r" \1 "),
    (r"\\boxed\s+(?=[^\s{])", " "),
    (rf"\\[dtc]?frac\s*(?:\{{\s*({AMOUNT})\s*\}}|(\d))\s*(?:\{{\s*({AMOUNT})\s*\}}|(\d))", _fraction),
    (
        rf"\\[dtc]?frac\s*\{{\s*({AMOUNT})(?:{WORD_OF_UNIT})?\s*\}}"
        rf"\s*\{{\s*({AMOUNT})(?:{WORD_OF_UNIT})?\s*\}}",
        _fraction_of_units,
    ),
    (rf"\{{\s*({AMOUNT})()\s*\\over\s*({AMOUNT})()\s*\}}", _fraction),
    (rf"\\[dtc]?frac\s*\{{\s*({OF_UNITS})\s*\}}\s*\{{\s*({OF_UNITS})\s*\}}", r" \1/\2 "),
    (r"-\s*\(\s*(\d[\d./ ]*)\)", r"-\1"),
    (r"([\^_])\s*\{\s*([-+]?\s*\w+)\s*\}", r"\1\2"),
    (r"(?<![\w\\}\]^_])\{([^{}\\]*)\}", r" \1 "),
)
EXPONENT_OF_UNIT = re.compile(r"(?<=[A-Za-z)])\s*\^\s*[-+]?\d+")


def plain(text: str) -> str:
    r"""The text without ornaments: `\$1{,}234` is `1,234`, `\frac{1}{2}` is `1/2`, `cm²` is `cm^2`."""
    for pattern, replacement in (*UNICODE, *ORNAMENTS):
        text = re.sub(pattern, replacement, text)
    text = unicodedata.normalize("NFKC", text).translate(SIGNS)
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() and not c.isascii() else c for c in text)
    for pattern, replacement in LATEX:
        text = re.sub(pattern, replacement, text)
    before = None
    while before != text:  # the innermost first
        before = text
        for pattern, replacement in NESTED:
            text = re.sub(pattern, replacement, text)
    return re.sub(r"[ \t]+", " ", text).strip()


def text_form(text: str) -> str:
    """What two texts have in common that say the same: plain, no spaces, no case, no marks around it."""
    form = (
        re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", plain(text) if len(text) <= LONGEST else text)
        .replace(r"\{", "{")
        .replace(r"\}", "}")
    )
    before = None
    while before != form:
        before = form
        form = form.rstrip(".,;:!").strip("'\"*_")
        form = re.sub(r"^\(([^()\[\]{},]*)\)$", r"\1", form)
    words = re.fullmatch(r"[\w'-]+", form) and re.search(r"[^\W\d_]{2}", form)
    return form.casefold() if words else form
