"""What an LLM judge is asked, and how its verdict is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolign import untrusted
from evolign.config import strict_yaml
from evolign.errors import ConfigError
from evolign.judging.base import Messages, Question, Verdict
from evolign.messages import Prompt

PLACES = ("prompt", "a", "b")
SYSTEM = """\
You compare two answers to the same request. Judge how well each of them does what the request asks for: \
whether it is correct, to the point, complete and clear. Being longer is no merit, nor is being shown first.

Say in one or two sentences what decides. Then end with a line that holds your verdict and nothing else:
[[A]] if answer A is better,
[[B]] if answer B is better,
[[tie]] if they are equally good."""
USER = """\
The request:

{prompt}

<answer A>
{a}
</answer A>

<answer B>
{b}
</answer B>"""
VERDICT = r"\[\[\s*(A|B|tie)\s*\]\]"


@dataclass(frozen=True)
class Template:
    """A system message (or None), a user message with the places {prompt}, {a} and {b}, and a pattern.

    `verdict` is a regular expression whose one group is A, B or tie, in any case. It is read from the last
    line that it matches, after any `</think>`; a line with two different verdicts is invalid.
    """

    system: str | None = SYSTEM
    user: str = USER
    verdict: str = VERDICT

    def __post_init__(self) -> None:
        if missing := [place for place in PLACES if f"{{{place}}}" not in self.user]:
            raise ConfigError(
                f"the judge's template: `user` lacks {{{missing[0]}}}; it needs the places {{prompt}}, {{a}} "
                "and {b}"
            )
        try:
            groups = re.compile(self.verdict).groups
        except re.error as error:
            raise ConfigError(
                f"the judge's template: verdict = {self.verdict!r} is no regular expression: {error}"
            ) from error
        if groups != 1:
            raise ConfigError(
                f"the judge's template: verdict = {self.verdict!r} has {groups} groups; it needs one, which "
                "is A, B or tie"
            )

    def messages(self, question: Question) -> Messages:
        """The conversation that asks `question`. What a completion holds is never read as a place."""
        values = {"prompt": prompt_text(question.prompt), "a": question.a, "b": question.b}
        pattern = "|".join(f"{{{place}}}" for place in PLACES).replace("{", r"\{").replace("}", r"\}")
        user = re.sub(pattern, lambda match: values[match[0][1:-1]], self.user)
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": user}]

    def read(self, reply: str) -> Verdict:
        """The verdict that a reply holds."""
        for line in reversed(reply.rpartition("</think>")[2].splitlines()):
            found = {match.lower() for match in re.findall(self.verdict, line, re.IGNORECASE)}
            if found:
                known: dict[str, Verdict] = {"a": "A", "b": "B", "tie": "tie"}
                return known.get(found.pop(), "invalid") if len(found) == 1 else "invalid"
        return "invalid"


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text: a single message as it is, several with their roles."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def load_template(path: str | Path) -> Template:
    """The template in a YAML file with `user` and, where they differ from ours, `system` and `verdict`."""
    try:
        tree: Any = strict_yaml.read(untrusted.text(Path(path).expanduser()))
    except (OSError, untrusted.Unreadable) as error:
        raise ConfigError(f"cannot read the judge's template {str(path)!r}: {error}") from error
    if not isinstance(tree, Mapping) or not tree.keys() <= {"system", "user", "verdict"}:
        raise ConfigError(
            f"the judge's template {str(path)!r} must be a mapping of `user`, `system` and `verdict`, and "
            "nothing else"
        )
    for name, value in tree.items():
        if not isinstance(value, str) and not (name == "system" and value is None):
            raise ConfigError(f"the judge's template {str(path)!r}: {name} = {value!r} must be a text")
    return Template(**tree)
