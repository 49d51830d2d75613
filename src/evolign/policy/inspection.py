"""Inspection: one prompt as the model is shown it, and what is suspicious about it (`evolign check`)."""

import re
from collections import Counter
from collections.abc import Sequence

from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.policy.encoder import PromptEncoder
from evolign.types import Example

SHOWN = 240
"""Characters of a prompt that are shown, of its beginning and its end."""
LOOKED_AT = 64
"""Prompts that are rendered."""
ANSWER = "The answer."
THINKING = ("<think>", "<thinking>", "<thought>", "<reasoning>", "[THINK]")
"""Tags that open a block of thoughts."""
SWITCHES = {
    "enable_thinking": r"\benable_thinking\b",
    "thinking": r"\b(?:if|elif|and|or|not)\s+thinking\b",
}
"""Variables by which templates let a model think or not, and how these are read there."""


def as_shown(encoder: PromptEncoder, prompt: Prompt) -> str:
    """A prompt as rendered and encoded: its text, its number of tokens, and which of them are special."""
    ids, rendered = encoder.encode(prompt), encoder.render(prompt)
    middle = len(rendered) - SHOWN
    if middle > 0:
        rendered = f"{rendered[: SHOWN // 2]} [{middle} characters] {rendered[-SHOWN // 2 :]}"
    tokenizer = encoder.tokenizer
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = marked | set(tokenizer.all_special_ids)
    counted = Counter(encoder.token(i) for i in ids if i in special)
    named = ", ".join(f"{count} {token}" for token, count in counted.items())
    joined = " (no chat template: messages are joined)" if _is_joined(encoder, prompt) else ""
    return f"{rendered!r}{joined}: {len(ids)} tokens, {named or 'none'} of them special"


def doubts(encoder: PromptEncoder, examples: Sequence[Example]) -> list[str]:
    """Sentences that warn of what a tokenizer or template makes of the prompts of `examples`."""
    prompts = [example.prompt for example in examples[:LOOKED_AT]]
    messages = [prompt for prompt in prompts if not isinstance(prompt, str)]
    found = _beyond_the_embeddings(encoder)
    if any(ids[-1:] == [encoder.tokenizer.eos_token_id] for ids in map(encoder.encode, prompts)):
        found.append("prompts end in an end-of-sequence token, after which a model may have nothing to say")
    unknown = encoder.tokenizer.unk_token_id
    if count := sum(unknown is not None and unknown in encoder.encode(prompt) for prompt in prompts):
        found.append(
            f"the tokenizer does not know all characters of {count} of {len(prompts)} prompts, and the model "
            f"is shown {encoder.token(unknown)!r} in their place"
        )
    if messages and encoder.has_template:
        found += _left_out(encoder, messages)
        found += _without_bos(encoder, messages[0])
        found += _around_an_answer(encoder, messages[0])
    return found + _thinking(encoder, prompts) + _unread(encoder, messages)


def _thinking(encoder: PromptEncoder, prompts: Sequence[Prompt]) -> list[str]:
    """Templates that open a block of thoughts, or leave it to the model to open one."""
    template = str(getattr(encoder.tokenizer, "chat_template", None) or "")
    opened = next((tag for tag in THINKING if any(_is_open(encoder.render(p), tag) for p in prompts)), None)
    switch = next((name for name, read in SWITCHES.items() if re.search(read, template)), None)
    way_out = (
        f"set model.chat_template_kwargs = {{{switch}: false}}"
        if switch
        else "the template has no switch for it: use a model or a template that answers at once"
    )
    room = "or give sampling.max_new_tokens room for the thoughts"
    if opened is not None:
        return [
            f"the chat template opens a thinking block ({opened}), where completions begin; {way_out}, {room}"
        ]
    if switch and switch not in encoder.template_arguments and any(not isinstance(p, str) for p in prompts):
        return [f"the model may think before it answers: its chat template knows {switch}; {way_out}, {room}"]
    return []


def _is_open(rendered: str, tag: str) -> bool:
    """Whether a prompt ends inside a block that `tag` opens."""
    return rendered.rfind(tag) > rendered.rfind(tag.replace("<", "</").replace("[", "[/"))


def _unread(encoder: PromptEncoder, messages: Sequence[Prompt]) -> list[str]:
    """Arguments that no template reads."""
    template = str(getattr(encoder.tokenizer, "chat_template", None) or "")
    if not messages and encoder.template_arguments:
        return ["model.chat_template_kwargs has no effect on prompts that are texts; set task.chat = true"]
    return [
        f"model.chat_template_kwargs: the chat template does not read {name}; leave it out"
        for name in encoder.template_arguments
        if name not in template
    ]


def _is_joined(encoder: PromptEncoder, prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and not encoder.has_template


def _beyond_the_embeddings(encoder: PromptEncoder) -> list[str]:
    known, limit = len(encoder.tokenizer), encoder.embeddings
    if limit is None or known <= limit:
        return []
    return [
        f"the tokenizer knows {known} tokens and the model has {limit} embeddings: texts with the token "
        f"{encoder.token(limit)!r} (number {limit}) or a later one are refused"
    ]


def _left_out(encoder: PromptEncoder, prompts: Sequence[list[dict[str, str]]]) -> list[str]:
    """Roles whose words the template does not show."""
    lost: Counter[str] = Counter()
    for prompt in prompts:
        shown = _words(encoder.render(prompt))
        lost.update({m["role"] for m in prompt if _words(m["content"]) not in shown})
    return [
        f"the chat template leaves out what the {role} says in {count} of {len(prompts)} prompts; put it "
        "into another message, or use a tokenizer whose template shows it"
        for role, count in lost.items()
    ]


def _without_bos(encoder: PromptEncoder, prompt: list[dict[str, str]]) -> list[str]:
    before, ids = encoder.added[0], encoder.encode(prompt)
    if not before or ids[: len(before)] == before:
        return []
    return [
        f"the tokenizer begins texts with {' '.join(map(encoder.token, before))} and the chat template does "
        "not, so chat prompts are without it, as transformers has them"
    ]


def _around_an_answer(encoder: PromptEncoder, prompt: list[dict[str, str]]) -> list[str]:
    """What a template for models that think puts between a prompt and an answer."""
    asked = list(prompt)
    while asked and asked[-1]["role"] == "assistant":
        asked.pop()
    try:
        shown = encoder.render(asked)
        whole = encoder.render([*asked, {"role": "assistant", "content": ANSWER}])
    except (ConfigError, IndexError):  # the prompt is one turn of the assistant, or the template takes none
        return []
    answered = whole.rpartition(ANSWER)[0]
    if answered.startswith(shown) and not answered[len(shown) :].strip():
        return []
    same = next(
        (i for i, pair in enumerate(zip(shown, answered, strict=False)) if pair[0] != pair[1]), len(shown)
    )
    return [
        f"the chat template shows a prompt as ...{shown[max(0, same - 20) :]!r} and an answered one as "
        f"...{answered[max(0, same - 20) :]!r}, as for models that think: completions begin after the first, "
        "references are learnt there, and what is thought counts as completion (sampling.max_new_tokens)"
    ]


def _words(text: str) -> str:
    return " ".join(text.split())
