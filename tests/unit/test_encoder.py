"""What a model is shown: prefills are continued, a BOS comes once, and no EOS before a completion's end."""

import pytest
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.policy.encoder import PromptEncoder

BOS, EOS = 1, 2
ASKED = [{"role": "user", "content": "2+2?"}]
PREFILLED = [*ASKED, {"role": "assistant", "content": "2+2="}]
WITH_BOS = "<bos>{% for m in messages %}{{ m['role'] }}:{{ m['content'] | trim }}<eos>{% endfor %}"


def encoder(
    post: str = "", template: str | None = None, embeddings: int | None = None, limit: int | None = None
) -> PromptEncoder:
    """An encoder whose tokenizer adds the special tokens that `post` says, around $A."""
    tokenizer = tiny_tokenizer()
    if post:
        special = [("<bos>", BOS), ("<eos>", EOS), ("<unk>", 3)]
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=post, special_tokens=special)
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, "tiny", [9], limit, embeddings)


def plain(text: str) -> list[int]:
    """The tokens of a text, in which <bos> and <eos> are one each."""
    ids: list[int] = tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (None, "2+2?\n\n2+2="),
        (CHAT_TEMPLATE, "<bos>user: 2+2?<eos><bos>assistant: 2+2="),
        (WITH_BOS, "<bos>user:2+2?<eos>assistant:2+2="),
    ],
)
def test_a_last_message_of_the_assistant_is_continued(template: str | None, shown: str) -> None:
    assert encoder(template=template).render(PREFILLED) == shown
    assert encoder(template=template).encode(PREFILLED) == plain(shown)


def test_after_other_messages_the_assistants_turn_is_opened() -> None:
    tool = [*PREFILLED, {"role": "tool", "content": "4"}]
    assert encoder(template=CHAT_TEMPLATE).render(tool).endswith("<bos>tool: 4<eos><bos>assistant: ")
    assert encoder().render(ASKED) == "2+2?\n\n"


@pytest.mark.parametrize("post", ["<bos> $A", "<bos> $A <eos>", "<bos> <unk> $A <eos>"])
@pytest.mark.parametrize(
    ("prompt", "template"),
    [("2+2", None), ("2+2", WITH_BOS), (ASKED, None), ("<bos>2+2", None), (ASKED, WITH_BOS)],
)
def test_a_prompt_has_one_bos_and_no_eos_that_the_tokenizer_adds(
    post: str, prompt: Prompt, template: str | None
) -> None:
    found = encoder(post, template)
    ids = found.encode(prompt)
    shown = found.render(prompt)
    if "<unk>" not in post:
        assert ids == plain(shown if shown.startswith("<bos>") else f"<bos>{shown}")
    assert ids[0] == BOS and (ids[-1] != EOS or shown.endswith("<eos>"))


def test_a_template_decides_on_its_own_tokens_as_in_transformers() -> None:
    found = encoder("<bos> $A <eos>", "{% for m in messages %}{{ m['content'] }}{% endfor %}:")
    together = found.tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=True)
    assert found.encode(ASKED) == together["input_ids"] == plain("2+2?:")


@pytest.mark.parametrize("post", ["", "<bos> $A", "<bos> $A <eos>"])
@pytest.mark.parametrize("text", ["4", "4<eos>", ""])
def test_a_completion_has_no_bos_and_one_eos(post: str, text: str) -> None:
    assert encoder(post).encode_completion(text) == [*plain(text.removesuffix("<eos>")), EOS]


def test_a_completion_ends_with_the_end_of_the_tokenizer_or_else_of_the_model() -> None:
    found = encoder()
    found.tokenizer.eos_token = None
    assert found.encode_completion("4") == [*plain("4"), 9]
    found.tokenizer.eos_token = "<pad>"
    assert found.tokenizer.eos_token_id == 0  # a number, though a false one
    assert found.encode_completion("4") == [*plain("4"), 0]


@pytest.mark.parametrize("text", ["2+2=4", "<bos>2+2=4", "2+2=4<eos>", "<bos>2+2=4<eos>"])
def test_an_encoder_reads_a_text_between_one_pair_of_special_tokens(text: str) -> None:
    assert encoder("<bos> $A <eos>").encode_whole(text) == plain("<bos>2+2=4<eos>")
    assert encoder("<bos> $A <eos>", limit=5).encode_whole(text) == plain("<bos>2=4<eos>")
    assert encoder().encode_whole("2+2=4") == plain("2+2=4")


def test_a_token_without_an_embedding_is_refused_by_name() -> None:
    number = plain("z")[0]
    assert encoder(embeddings=number + 1).encode("z") == [number]
    found = encoder(embeddings=number)
    for read in (found.encode, found.encode_completion, found.encode_whole):
        with pytest.raises(ConfigError, match=rf"token 'z': its number is {number}; .* has {number} emb"):
            read("az")
