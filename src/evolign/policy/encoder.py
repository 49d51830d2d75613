"""Encoding prompts as token ids and decoding tokens as text, which needs a tokenizer but no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from evolign.errors import ConfigError, shown
from evolign.messages import Prompt
from evolign.types import Example


@dataclass(frozen=True)
class PromptEncoder:
    """How a model reads prompts and writes completions: with one BOS, and no EOS before the end."""

    tokenizer: Any
    name: str
    """The model's, for messages to the user."""
    eos_token_ids: Sequence[int]
    """Tokens that end a completion."""
    context_length: int | None
    """Tokens of prompt and completion that the model can hold; None: no known limit."""
    embeddings: int | None = None
    """Tokens that the model has an embedding for; None: as many as the tokenizer knows."""
    system_prompt: str | None = None
    """System message of chat prompts that begin without one."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template."""

    @property
    def has_template(self) -> bool:
        """Whether messages go through a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def added(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before a text, and those that it puts after it."""
        for probe in ("a", "0", "."):
            plain, whole = self._plain(probe), self.tokenizer(probe)["input_ids"]
            for start in range(len(whole) - len(plain) + 1) if plain else ():
                if whole[start : start + len(plain)] == plain:
                    return whole[:start], whole[start + len(plain) :]
        return [], []

    def render(self, prompt: Prompt) -> str:
        """A prompt as text: messages go through the chat template, or are joined without one.

        If the last message is the assistant's, what follows continues it, as in TRL and transformers.
        """
        if isinstance(prompt, str):
            if self.system_prompt is not None:
                raise ConfigError(
                    f"model.system_prompt = {shown(self.system_prompt)} needs prompts of chat messages, and "
                    f"{shown(prompt)} is a text; set task.chat = true, or put it into task.prompt"
                )
            return prompt
        if self.system_prompt is not None and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": self.system_prompt}, *prompt]
        continued = prompt[-1]["role"] == "assistant"
        if not self.has_template:
            return "\n\n".join(message["content"] for message in prompt) + "\n\n" * (not continued)
        try:
            result: str = self.tokenizer.apply_chat_template(
                prompt,
                tokenize=False,
                add_generation_prompt=not continued,
                continue_final_message=continued,
                **self.template_arguments,
            )
            return result
        except Exception as error:  # templates raise what they like of roles that they do not know
            raise ConfigError(
                f"the chat template of {self.name!r} refuses the messages {str(prompt)!r:.200}: {error}; "
                "leave out what it refuses (often the system message), or give another template"
            ) from error

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. A chat template brings its own special tokens."""
        ids, (before, _) = self._plain(self.render(prompt)), self.added
        templated = not isinstance(prompt, str) and self.has_template
        return self._embedded(ids if templated or _begins(ids, before) else [*before, *ids])

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, its end-of-sequence token included, once."""
        eos = self.tokenizer.eos_token_id
        end = list(self.eos_token_ids[:1]) if eos is None else [eos]
        ids = self._plain(text)
        return self._embedded(ids if ids[-1:] == end else [*ids, *end])

    def encode_freely(self, text: str) -> list[int]:
        """The same of any text, even of one that no model could write."""
        end = self.tokenizer.eos_token_id
        return [*self._plain(text), *([] if end is None else [end])]

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of a text as an encoder reads it, between the tokenizer's own; the end of a long one."""
        ids, (before, after) = self._plain(text), self.added
        ids = ids[len(before) :] if _begins(ids, before) else ids
        ids = ids[: len(ids) - len(after)] if ids[len(ids) - len(after) :] == after else ids
        room = None if self.context_length is None else self.context_length - len(before) - len(after)
        return self._embedded([*before, *(ids if room is None else ids[max(0, len(ids) - room) :]), *after])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        result: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return result

    def token(self, number: int) -> str:
        """What the tokenizer calls the token of that number."""
        return str(self.tokenizer.convert_ids_to_tokens(number))

    def _plain(self, text: str) -> list[int]:
        result: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return result

    def _embedded(self, ids: list[int]) -> list[int]:
        """`ids`. Raises ConfigError for a token that the model has no embedding for."""
        if self.embeddings is not None and max(ids, default=0) >= self.embeddings:
            last = max(ids)
            raise ConfigError(
                f"{self.name!r} has no embedding for the token {self.token(last)!r}: its number is {last}; "
                f"the model has {self.embeddings} embeddings; use the tokenizer that the model was made "
                "with, or give it more by resize_token_embeddings and train them"
            )
        return ids


def _begins(ids: Sequence[int], before: Sequence[int]) -> bool:
    return list(ids[: len(before)]) == list(before)


class EncodedPrompts:
    """Prompts by the id of their example, each encoded once."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._prompt: dict[str, Prompt] = {}
        self._token_ids: dict[str, list[int]] = {}

    def add(self, examples: Iterable[Example]) -> None:
        """Encode new prompts. Raises ConfigError for a prompt without tokens."""
        for example in examples:
            if example.id in self._prompt and self._prompt[example.id] == example.prompt:
                continue
            token_ids = self._encoder.encode(example.prompt)
            if not token_ids:
                raise ConfigError(
                    f"prompt {_shown(example.id, example.prompt)} has no tokens; a prompt needs at least one"
                )
            self._prompt[example.id], self._token_ids[example.id] = example.prompt, token_ids

    def __getitem__(self, name: str) -> list[int]:
        """Token ids of the prompt of the example `name`."""
        return self._token_ids[name]

    def __contains__(self, name: object) -> bool:
        return name in self._token_ids

    def check_room(self, names: Iterable[str], max_new_tokens: int) -> None:
        """Raise ConfigError where a prompt and its completion exceed the model's context."""
        limit = self._encoder.context_length
        if limit is None:
            return
        for name in names:
            length = len(self._token_ids[name])
            if length + max_new_tokens > limit:
                raise ConfigError(
                    f"prompt {_shown(name, self._prompt[name])} has {length} tokens and "
                    f"sampling.max_new_tokens = {max_new_tokens}, together more than the model's context of "
                    f"{limit}; shorten or drop the prompt, or lower sampling.max_new_tokens"
                )


def _shown(name: str, prompt: Prompt) -> str:
    return f"{name!r} ({str(prompt)!r:.60})"
