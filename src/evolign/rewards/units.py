"""Units of measure: whether two numbers are said of the same thing.

Units are compared, not converted: 18 m is neither 18 cm nor 1,800 cm. Where one side has none, or a noun
that is no unit of measure (18 eggs), the numbers decide. `pound`, a weight and a currency, tells nothing.
"""

import re

NAMES = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
    "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
    "mile": "mi mile", "mg": "mg milligram", "g": "g gram", "kg": "kg kilogram kilo", "ounce": "oz ounce",
    "lb": "lb", "ton": "ton tonne", "ms": "ms millisecond", "second": "s sec second",
    "minute": "min minute", "hour": "h hr hour", "day": "day", "week": "wk week", "month": "month",
    "year": "yr year", "ml": "ml milliliter millilitre", "litre": "l liter litre", "gallon": "gal gallon",
    "pint": "pint", "quart": "quart", "dollar": "dollar usd $", "cent": "cent ¢", "euro": "euro eur €",
    "sterling": "gbp £", "yen": "yen jpy ¥", "rupee": "rupee inr rs ₹", "percent": "%",
    "degree": "degree", "radian": "rad radian",
}  # fmt: skip
KNOWN = {name: unit for unit, names in NAMES.items() for name in names.split()}
SPEEDS = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour"}
WORD = r"(%|¢|[A-Za-z]+)\.?([²³]?)"
MEASURE = re.compile(
    r"(?:/\d+)?\s*(?:hundred|thousand|million|billion|trillion|dozen)?\s*-?(?:of an? )?"
    rf"(?:(sq|square|cu|cubic)\b\.?\s+)?{WORD}(?:\s*(?:/|\bper|\ban?)\s*{WORD})?"
)
"""What follows a number: "square meters", "km/h", "dollars per hour"."""
SYMBOL = re.compile(r"(\\?\$|[€£¥₹])\s*[-+]?\d?[\d.,]*\D*$")
"""A currency before the last number of a text."""
POWERS = {"sq": "²", "square": "²", "cu": "³", "cubic": "³"}


def unit_after(after: str) -> str:
    """The unit of a number that `after` follows, in one spelling; empty where there is none that is known.

    >>> unit_after(" square meters."), unit_after(" km/h"), unit_after(" eggs"), unit_after(" in total")
    ('m²', 'km/hour', '', '')
    """
    match = MEASURE.match(after)
    if match is None:
        return ""
    square, word, power, per, power_of_per = match.groups()
    if word.lower() == "in" and re.match(r"\s*\w", after[match.end(2) :]):  # the preposition
        return ""
    if word.lower() in SPEEDS:
        return SPEEDS[word.lower()]
    above, below = _known(word), _known(per or "")
    return f"{above}{POWERS.get(square, power)}{f'/{below}{power_of_per}' if below else ''}" if above else ""


def currency_before(text: str) -> str:
    """The currency whose sign stands before the last number of a text as it is written; empty without one.

    A dollar sign in a pair is LaTeX's mark of a formula.
    """
    match = SYMBOL.search(text)
    if match is None or (match[1] == "$" and text.replace(r"\$", "").count("$") % 2 == 0):
        return ""
    return KNOWN[match[1].removeprefix("\\")]


def differ(one: str, other: str) -> bool:
    """Whether two units are both known and not the same; what is said of only one of them decides nothing."""
    above, _, below = one.partition("/")
    other_above, _, other_below = other.partition("/")
    return bool(
        (above and other_above and above != other_above) or (below and other_below and below != other_below)
    )


def _known(word: str) -> str:
    word = word.lower()
    return KNOWN.get(word) or KNOWN.get(word.removesuffix("s"), "")
