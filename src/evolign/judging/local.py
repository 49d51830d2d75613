"""A local model as judge, asked through our own engine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolign.errors import ConfigError
from evolign.judging.base import Messages, Reply

ROWS_AT_ONCE = 64
"""Conversations per call of the engine; progress is shown after each call."""


class LocalModel:
    """The model in a folder or on the hub, on the first GPU or the CPU.

    The weights' fingerprint is a part of the cache's key, so another model under the same path is asked anew.
    """

    def __init__(self, model: str, parameters: Mapping[str, Any]) -> None:
        from evolign.config import ModelConfig, SamplingConfig
        from evolign.engines.transformers.self_test import self_test
        from evolign.policy.base_model import load_base_model
        from evolign.policy.fingerprint import model_fingerprint

        if unknown := parameters.keys() - {"temperature", "max_tokens"}:
            raise ConfigError(
                f"a local judge has no parameter {sorted(unknown)[0]!r}; it takes temperature and max_tokens"
            )
        self.name = f"local:{model}"
        try:
            sampling = SamplingConfig(
                max_new_tokens=parameters.get("max_tokens", 512),
                temperature=parameters.get("temperature", 0.0),
            )
        except ValueError as error:
            raise ConfigError(f"a local judge's parameters {dict(parameters)} are none: {error}") from error
        self._new_tokens, self._temperature = sampling.max_new_tokens, sampling.temperature
        self.max_tokens: int | None = self._new_tokens
        self._base = load_base_model(ModelConfig(name=model))
        self_test(self._base)
        self.identity: Mapping[str, Any] = {
            "model": Path(model).name,
            "fingerprint": model_fingerprint(self._base.model),
            "parameters": {"temperature": self._temperature, "max_tokens": self.max_tokens},
        }

    def replies(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """See `Backend.replies`. A conversation that does not fit the model's context fails alone."""
        from evolign.config import TransformersConfig
        from evolign.engines import build_engine
        from evolign.policy.policy import fixed_policy
        from evolign.types import Example, Population, Sampling

        sampling = Sampling(self._new_tokens, self._temperature)
        fitting: list[tuple[int, str, int]] = []
        for i, messages in enumerate(conversations):
            example = Example(json.dumps(messages), messages)  # the noise is keyed by the id
            try:
                self._base.prompts.add([example])
                self._base.prompts.check_room([example.id], self._new_tokens)
            except ConfigError:
                limit = self._base.encoder.context_length
                why = f"question and {self._new_tokens} new tokens exceed the context of {limit}"
                yield i, Reply(None, why)
            else:
                fitting.append((i, example.id, len(self._base.prompts[example.id])))
        with build_engine(TransformersConfig(), fixed_policy(self._base)) as engine:
            for start in range(0, len(fitting), ROWS_AT_ONCE):
                chunk = fitting[start : start + ROWS_AT_ONCE]
                said = engine.generate(Population.of_mean(), [[name for _, name, _ in chunk]], sampling)
                for (i, _, tokens_in), text, ids in zip(
                    chunk, said.text_NPS[0, :, 0], said.token_ids_NPS[0, :, 0], strict=True
                ):
                    yield i, Reply(text, tokens_in=tokens_in, tokens_out=len(ids))
