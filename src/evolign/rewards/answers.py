r"""Answers: where in a completion, or in a gold solution, the answer is.

It is what the text marks (the last `\boxed{...}`, else `<answer>...</answer>`, else `#### ...`), else what it
announces ("The answer is ..."), else the last number; a text that is only the answer is the answer.
"""

import re

MARK = re.compile(r"#{4,}[ \t:]*([^\n#]*)((?:(?!####).)*)", re.DOTALL)
TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
LABEL = re.compile(
    r"^[\s*_]*(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:the\s+)?(?:(?:final|correct)\s+)?"
    r"(?:answer|result|solution|option|choice)\b[\s*_]*(?:(?:is|are)\b|[:=])?[\s:*_]*",
    re.IGNORECASE,
)
ANNOUNCED = re.compile(
    r"\b(?:answer|result|(?:correct|right)\s+(?:option|choice|answer))"
    r"[\s*_]*(?:(?:is|are|(?:should|must|would|will)\s+be)\b|[:=])[\s:*_]*",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"\n|[.!?](?=\s)|[。！？]")
BRACES = re.compile(r"\\+(?:boxed|fbox|framebox)\s*\{|(?<!\\)[{}]")
UNBRACED = re.compile(r"\\boxed\s+(-?[\d.,/]*\d|[A-Z])\b")
CHOSEN = re.compile(
    r"\(?\b([A-Z])\b\)?\s+is\s+(?:the\s+)?(?:correct|right|best|answer)"
    r"|(?<!\bnot )(?<!n't )"
    r"(?:\b(?i:think|believe|guess|say|choose|chose|pick|select|with|go for|(?:must|should|would) be)"
    r"(?:\s+(?:it(?:'s|\s+is)|that))?(?:\s+(?:the\s+)?(?:option|choice|answer|letter))?"
    r"|\b(?i:so|thus|hence|therefore)\b,?)"
    r"\s+(?:\(([A-Z])\)|([A-HJ-Z])(?=\s*(?:[.,;!]|$|because\b|since\b)))"
    r"(?!\s+(?:is|are)\b|\s*(?:,\s*)?(?:or|and|/)\s*\(?[A-Z]\b)"
)
"""(B) is correct. I think (B). I would go with option B. Therefore, (B)."""
COPULA = re.compile(r"(?:\b(?:is|are|was|were)\b|'s\b|:(?!\d)|=)\s*", re.IGNORECASE)
BETWEEN_BOXES = re.compile(
    r"[\s$.,;)(\\]{0,20}(?:(?:text\s?\{)?\s?(?:and|or)\s?\}?[\s$,;(\\]{0,20})?", re.IGNORECASE
)


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` (or `\fbox{...}`), None where there is none.

    Boxes with nothing but "and", "or" or a comma between them are one answer.

    >>> boxed(r"so \boxed{\frac{1}{2}}"), boxed(r"\boxed{5} or \boxed{7}")
    ('\\frac{1}{2}', '5, 7')
    """
    boxes = _boxes(text)
    content: str | None = None
    for i, (start, end) in enumerate(boxes):
        inside = text[start:end].strip()
        between = text[boxes[i - 1][1] + 1 : text.rindex("\\", 0, start)] if i else ""
        together = BETWEEN_BOXES.fullmatch(between) and re.search("[,;]|and|or", between, re.IGNORECASE)
        content = f"{content}, {inside}" if together else inside
    bare: list[str] = UNBRACED.findall(text)
    return bare[-1] if content is None and bare else content


def marked_answer(text: str) -> str | None:
    r"""What the text marks as its answer: the last `\boxed{...}`, `<answer>` or `#### ...`, in this order.

    An answer may stand on the line after its mark, and have a label: `#### The answer is 5`.
    """
    if (answer := boxed(text)) is not None:
        return answer
    if tagged := TAGGED.findall(text):
        return unlabelled(tagged[-1])
    marks = MARK.findall(text.rstrip("#: \t\n"))
    if not marks:
        return None
    line, after = marks[-1]
    return unlabelled(line) or unlabelled(_first_line(after))


def announced_answer(text: str) -> str | None:
    """What the last "the answer is ..." of the text announces, up to the end of the sentence."""
    announced = [*ANNOUNCED.finditer(text)]
    if not announced:
        chosen = ["".join(letters) for letters in CHOSEN.findall(text)]
        return chosen[-1] if chosen else None
    rest = _first_line(text[announced[-1].end() :])
    end = SENTENCE.search(rest)
    said = rest[: end.start()] if end else rest
    return re.split(r",\s*(?:and\s+)?not\b", said)[0].strip()


def last_words(text: str) -> str:
    """What the last sentence of the text says that something is; the text itself where it says no such thing.

    >>> last_words("I think. The capital of France is Paris.")
    'Paris'
    """
    sentences = [part for part in SENTENCE.split(text.strip().rstrip(".!。")) if part.strip()]
    said = COPULA.split(sentences[-1]) if sentences else [""]
    return said[-1].strip()


def unlabelled(answer: str) -> str:
    """The answer without "The final answer is" before it.

    >>> unlabelled("**Answer:** 5")
    '5'
    """
    return LABEL.sub("", answer, count=1).strip()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip(" \t$\\[](){}*_")), "")


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of complete boxes begin and end, in order, without those inside another one."""
    found: list[tuple[int, int]] = []
    opened: list[int | None] = []
    for match in BRACES.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if len(match[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, match.start()))
    return found
