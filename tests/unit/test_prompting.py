"""How a model is prompted: system prompt, arguments of the chat template, and templates that think."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny, tiny_tokenizer

from evolign.commands.check import check
from evolign.commands.evolve import borrowed
from evolign.config.recipe import parse
from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.policy.base_model import load_base_model
from evolign.policy.encoder import PromptEncoder
from evolign.policy.inspection import doubts
from evolign.types import Example

MESSAGES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
SWITCHED = (
    MESSAGES + "{% if add_generation_prompt %}assistant: "
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
OPENS = MESSAGES + "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
ASKED: Prompt = [{"role": "user", "content": "2+2?"}]
OFF: dict[str, Any] = {"enable_thinking": False}


def encoder(template: str | None, system: str | None = None, **arguments: Any) -> PromptEncoder:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, "tiny", [2], None, None, system, arguments)


def test_a_system_prompt_comes_first_unless_the_prompt_has_one() -> None:
    own: Prompt = [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]
    for template in (MESSAGES, None):
        shown = encoder(template, "be brief")
        assert "be brief" in shown.render(ASKED) and ASKED == [{"role": "user", "content": "2+2?"}]
        assert "be brief" not in shown.render(own)
    with pytest.raises(ConfigError, match=r"model.system_prompt = 'be brief' needs prompts of chat messages"):
        encoder(MESSAGES, "be brief").render("a text")


def test_arguments_reach_the_chat_template() -> None:
    assert encoder(SWITCHED, **OFF).render(ASKED) == "user: 2+2?\nassistant: <think></think>"
    assert encoder(SWITCHED).render(ASKED) == "user: 2+2?\nassistant: "


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (OPENS, {}, [r"opens a thinking block \(<think>\).*the template has no switch"]),
        (OPENS, OFF, ["opens a thinking block", "does not read enable_thinking"]),
        (SWITCHED, {}, ["may think .*; set model.chat_template_kwargs = {enable_thinking: false}"]),
        (SWITCHED, OFF, []),
        (MESSAGES, {}, []),
    ],
)
def test_templates_that_think_and_arguments_without_effect_are_warned_of(
    template: str, arguments: dict[str, Any], expected: list[str]
) -> None:
    found = doubts(encoder(template, **arguments), [Example("1", ASKED)])
    found = [it for it in found if "as for models that think" not in it]
    assert len(found) == len(expected)
    assert all(re.search(pattern, it) for pattern, it in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "return_dict", "chat_template"])
def test_what_evolign_gives_the_template_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model.chat_template_kwargs: {name}: .* leave them out"):
        parse({"model": {"chat_template_kwargs": {name: True}}})


def test_named_and_live_models_are_prompted_alike_and_check_shows_it(tmp_path: Path) -> None:
    folder = save_tiny("qwen2", tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i} + 1", "answer": "{i + 1}"}}\n' for i in range(8)))
    config = parse(
        {
            "model": {"name": str(folder), "system_prompt": "be brief", "chat_template_kwargs": {"x": 1}},
            "task": {"name": "rows", "train": str(rows), "chat": True, "num_validation": 2},
            "sampling": {"max_new_tokens": 4},
            "adapter": {"warm_start": None},
            "evolution": {"prompts_per_generation": 2},
        }
    )
    base = load_base_model(config.model)
    with borrowed(base.model, base.tokenizer, config.model) as live:
        assert live is not None and live.encoder.render(ASKED) == base.encoder.render(ASKED)
    told = [finding.detail for finding in check(config) if finding.what == "prompt"]
    assert "be brief" in told[0] and any("does not read x" in it for it in told)
