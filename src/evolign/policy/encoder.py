"""From prompts to token ids, and from tokens to text. It needs a tokenizer and no model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.types import Example


@dataclass(frozen=True)
class PromptEncoder:
    """How a model reads prompts and writes completions."""

    tokenizer: Any
    name: str
    """The model's, for messages to the user."""
    eos_token_ids: Sequence[int]
    """Tokens that end a completion."""
    context_length: int | None
    """Tokens of prompt and completion that the model can hold; None: no known limit."""

    def render(self, prompt: Prompt) -> str:
        """A prompt as text: messages go through the chat template, or are joined without one."""
        if isinstance(prompt, str):
            return prompt
        if getattr(self.tokenizer, "chat_template", None):
            try:
                result: str = self.tokenizer.apply_chat_template(
                    prompt, tokenize=False, add_generation_prompt=True
                )
                return result
            except Exception as error:  # templates raise what they like of roles that they do not know
                raise ConfigError(
                    f"the chat template of {self.name!r} refuses the messages {str(prompt)!r:.200}: {error}; "
                    "leave out what it refuses (often the system message), or give another template"
                ) from error
        return "\n\n".join(message["content"] for message in prompt) + "\n\n"

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. A chat template brings its own special tokens."""
        templated = not isinstance(prompt, str) and getattr(self.tokenizer, "chat_template", None)
        result: list[int] = self.tokenizer(self.render(prompt), add_special_tokens=not templated)["input_ids"]
        return result

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, its end-of-sequence token included."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id or self.eos_token_ids[0]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        result: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return result


class EncodedPrompts:
    """Prompts by the id of their example, each encoded once."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._prompt: dict[str, Prompt] = {}
        self._token_ids: dict[str, list[int]] = {}

    def add(self, examples: Iterable[Example]) -> None:
        """Encode what is new. Raises ConfigError for a prompt without tokens."""
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
