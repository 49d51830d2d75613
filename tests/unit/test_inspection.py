"""`evolign check` shows one prompt as the model is shown it, and warns of what is suspicious."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE, save_tiny, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from evolign.commands.check import _trained, check
from evolign.commands.run import check_model, resume, run
from evolign.config import Config, EvolutionConfig
from evolign.config.recipe import parse
from evolign.errors import ConfigError
from evolign.policy.base_model import load_base_model
from evolign.policy.encoder import PromptEncoder
from evolign.policy.inspection import as_shown, doubts
from evolign.policy.search_memory import Layer, search_memory
from evolign.runs.progress import Silent
from evolign.tasks.leaks import leaks
from evolign.tasks.rows import Rows
from evolign.types import Example

SAID = "{{ m['role'] }}: {{ m['content'] }}\n"
NO_SYSTEM = f"{{% for m in messages if m['role'] != 'system' %}}{SAID}{{% endfor %}}"
OPENED = "{% if add_generation_prompt %}assistant: {% endif %}"
THINKS = OPENED.replace(": ", ": <think>\n")
EMPTY_THOUGHT = (
    "{% for m in messages %}{{ m['role'] }}: {{ '<think></think>' if m['role'] == 'assistant' }}"
    "{{ m['content'] }}\n{% endfor %}"
)
PROMPT = [{"role": "system", "content": "be  brief"}, {"role": "user", "content": "2+2?"}]


def encoder(template: str | None, post: str = "$A", embeddings: int | None = None) -> PromptEncoder:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=post, special_tokens=[("<bos>", 1)])
    return PromptEncoder(tokenizer, "tiny", [2], None, embeddings)


def test_a_prompt_is_shown_as_rendered_with_its_tokens_counted() -> None:
    shown = as_shown(encoder(CHAT_TEMPLATE), PROMPT)
    assert shown == (
        r"'<bos>system: be  brief<eos><bos>user: 2+2?<eos><bos>assistant: ': 43 tokens, "
        "3 <bos>, 2 <eos> of them special"
    )
    assert as_shown(encoder(None, "<bos> $A"), PROMPT) == (
        r"'be  brief\n\n2+2?\n\n' (no chat template: messages are joined): 18 tokens, 1 <bos> of them special"
    )
    assert "[760 characters]" in as_shown(encoder(None), "x" * 1000)


@pytest.mark.parametrize(
    ("template", "post", "expected"),
    [
        (None, "$A", []),
        (CHAT_TEMPLATE, "<bos> $A", []),
        (NO_SYSTEM + OPENED, "$A", ["leaves out what the system says in 1 of 1 prompts"]),
        (
            "{% for m in messages %}" + SAID + "{% endfor %}" + OPENED,
            "<bos> $A",
            ["begins texts with <bos> and"],
        ),
        (
            "{% for m in messages %}" + SAID + "{% endfor %}" + THINKS,
            "$A",
            [r"assistant: <think>\n' and an answered", "opens a thinking block (<think>)"],
        ),
        (EMPTY_THOUGHT + OPENED, "$A", [r"assistant: <think></think>', as for models that think"]),
        (
            "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}",
            "$A",
            ["end in an end-of-sequence token"],
        ),
        ("{% for m in messages %}{{ m['content'] }}é{% endfor %}", "$A", ["shown '<unk>' in their place"]),
    ],
)
def test_what_a_template_does_to_a_prompt_is_said(
    template: str | None, post: str, expected: list[str]
) -> None:
    found = doubts(encoder(template, post), [Example("a", PROMPT)])
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


INSIDE = "prompts hold the reference of their own row"
PREFILL = "prompts end with a message of the assistant"
SOLVED = [
    {"m": [user(f"{i}+1?"), assistant(f"it is {i + 1}.")], "q": f"{i}+1?", "a": i + 1} for i in range(9)
]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompt": "q", "completion": "a"}, []),
        ({"prompt": "m", "completion": "m"}, []),
        ({"prompt": "{q} Is it 1, 2, 3 or 4", "completion": "a"}, []),
        ({"prompt": "m"}, [PREFILL, INSIDE]),
        ({"prompt": "m", "completion": "{m[1][content]}"}, [PREFILL, INSIDE]),
        ({"prompt": "{q} {a}"}, [INSIDE]),
        ({"prompt": "{q} So:{a}\n", "completion": "a"}, [INSIDE]),
        ({"prompt": "({m[1][content]}) {q}", "completion": "{m[1][content]}"}, [INSIDE]),
    ],
)
def test_a_reference_inside_its_prompt_is_found(settings: dict[str, Any], expected: list[str]) -> None:
    rows = [{**row, "answer": row["a"]} for row in SOLVED]
    found = leaks(Rows(train=rows, num_validation=2, **settings))
    assert [part for part in (PREFILL, INSIDE) if any(part in sentence for sentence in found)] == expected


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny chat model whose tokenizer knows more tokens than it has embeddings for."""
    folder = save_tiny("llama", tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{i}>" for i in range(64 - len(tokenizer) + 1)], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, "top_k": 7}))
    return folder


def recipe(model: Path, rows: list[dict[str, Any]], **task: Any) -> Config:
    """A recipe for that model and rows."""
    path = model.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return parse(
        {
            "method": "sft",
            "model": {"name": str(model)},
            "task": {"name": "rows", "train": str(path), "num_validation": 2, "reward": "rouge_l", **task},
            "sampling": {"max_new_tokens": 4},
            "training": {"batch_size": 2},
        }
    )


def checked(model: Path, rows: list[dict[str, Any]], **task: Any) -> dict[tuple[str, str], str]:
    """What check says of rows for that model, by subject and status."""
    findings = check(recipe(model, rows, **task))
    return {(finding.what, finding.status): finding.detail for finding in findings}


def test_check_shows_the_prompt_and_warns(model: Path) -> None:
    found = checked(model, SOLVED, prompt="m", completion="{m[1][content]}")
    assert "user: " in found["prompt", "ok"] and "<bos>assistant: it is" in found["prompt", "ok"]
    assert INSIDE in found["data", "WARNING"]
    assert "65 tokens and the model has 64 embeddings: texts with the token" in found["prompt", "WARNING"]
    assert found["sampling", "ok"].startswith("do_sample = True, top_k = 7 in generation_config.json are not")
    assert not [status for _, status in found if status == "FAILED"]


def test_a_run_says_once_what_check_warns_of(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("evolign.trainers.trl.sft", lambda config, run, task, base, progress: {})
    monkeypatch.setattr(Silent, "say", lambda self, text: said.append(text))
    config = recipe(model, SOLVED, prompt="m", completion="{m[1][content]}")
    run(config, tmp_path / "run", progress=Silent())
    told = [text for text in said if text.startswith("Warning: ")]
    for words in (PREFILL, INSIDE, "65 tokens and the model has 64 embeddings"):
        assert sum(words in text for text in told) == 1
    said.clear()
    resume(tmp_path / "run", trust=True, progress=Silent())
    assert not [text for text in said if text.startswith("Warning: ")], "a resumed run has said it"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("strategy.covariance=full", "strategy.covariance = full takes .* GiB .*; set strategy.covariance="),
        (
            "strategy.name=openai_es space.name=lora",
            "space.name = lora takes .*; lower adapter.rank or space",
        ),
        ("strategy.population=100000", r"strategy.population = 100,000 takes .*; lower it"),
    ],
)
def test_a_search_that_memory_cannot_hold_is_refused_before_it_is_taken(
    overrides: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [Layer(64, 2048, 2048)] * 100
    config = parse({"strategy": {"sigma": 0.1}}, overrides.split())
    assert isinstance(config, EvolutionConfig)
    monkeypatch.setattr("evolign.policy.search_memory.machine_memory_bytes", lambda: 2**40)
    need = search_memory(config, layers)
    assert "MiB for a search in" in str(need)
    monkeypatch.setattr("evolign.policy.search_memory.machine_memory_bytes", lambda: int(need.total) - 1)
    with pytest.raises(ConfigError, match=words):
        search_memory(config, layers)


def test_a_run_and_check_estimate_the_memory_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse({"strategy": {"sigma": 0.1}})
    base = load_base_model(config.model)
    told = _trained(base.model, config)
    assert " MiB for a search in 256 dimensions; 1,600 completions a generation" in told
    monkeypatch.setattr("evolign.policy.search_memory.machine_memory_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match="and this machine has"):
        check_model(config, base)


@pytest.mark.parametrize(("column", "what"), [("q", "model"), ("a", "prompt")])
def test_check_names_a_token_without_an_embedding(model: Path, column: str, what: str) -> None:
    last = f"<{64 - len(tiny_tokenizer())}>"
    rows = [{**row, column: f"{row[column]}{last}"} for row in SOLVED]
    found = checked(model, rows, prompt="q", completion="a")
    assert f"no embedding for the token '{last}': its number is 64; the model has 64" in found[what, "FAILED"]


def test_a_merged_model_keeps_its_generation_config(model: Path, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    from evolign.config import AdapterConfig, ModelConfig
    from evolign.policy.base_model import load_base_model
    from evolign.policy.merging import merge
    from evolign.policy.warm_start import warm_start

    base = load_base_model(ModelConfig(name=str(model)))
    warm_start(base, AdapterConfig(warm_start=None), [], 0, tmp_path / "adapter")
    merge(ModelConfig(name=str(model)), tmp_path / "adapter", tmp_path / "merged")
    kept = GenerationConfig.from_pretrained(tmp_path / "merged").to_dict()
    assert kept == GenerationConfig.from_pretrained(model).to_dict() and kept["top_k"] == 7
