"""Classifier: a reward that is a model with a score per text, such as one that `reward_model` trained.

    reward: classifier:runs/reward-model                  a finished run of `method: reward_model`
    reward: classifier:owner/sentiment?label=POSITIVE     several labels: the probability of one

It reads prompt and completion with its own tokenizer, so it need not be a relative of the policy. A causal
model sees what the reward model was trained on: the prompt's tokens (chat messages go through the chat
template), the completion's tokens, and the end-of-sequence token. An encoder, one whose tokenizer has a CLS
token, sees prompt and completion as one text. What is too long loses its beginning.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from evolign.errors import ConfigError, first_line, quoted, unknown_name
from evolign.messages import Completion, Prompt
from evolign.policy.encoder import PromptEncoder
from evolign.policy.threads import SMALL_MODEL, cpu_threads
from evolign.policy.weights import check_finite, check_keys
from evolign.rewards import CLASSIFIER
from evolign.tasks.cells import text
from evolign.tasks.files import expanded

ROWS = 16
"""Rows per forward pass."""


class Classifier:
    """A reward function: called with prompts and completions, it returns one score for each.

    `source` is a folder or a hub name. With one label the score is its logit; with several it is the
    probability of `label` (a name, or a number from 0). Raises ConfigError for what is no classifier.
    """

    def __init__(self, source: str, label: str | None = None) -> None:
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer = _loaded(source, device)
        self.label = _label_id(self.model.config, source, label)
        self.limit = _limit(self.model, self.tokenizer)
        embeddings = self.model.get_input_embeddings().weight.shape[0]
        self.encoder = PromptEncoder(self.tokenizer, source, (), self.limit, embeddings)
        small = self.model.num_parameters() < SMALL_MODEL
        self.threads = 1 if small else torch.get_num_threads()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        rows = [self.encode(p, text(c)) for p, c in zip(prompts, completions, strict=True)]
        # Without a padding token a model cannot tell where a row of a batch ends.
        size = ROWS if self.model.config.pad_token_id is not None else 1
        with cpu_threads(self.model, self.threads):
            return [score for i in range(0, len(rows), size) for score in self._scores(rows[i : i + size])]

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Token ids of a prompt with its completion; the last ones, where the model cannot hold them all."""
        if self.tokenizer.cls_token_id is not None:
            return self.encoder.encode_whole(self.encoder.render(prompt) + completion)
        ids = [*self.encoder.encode(prompt), *self.encoder.encode_completion(completion)]
        return ids if self.limit is None else ids[-self.limit :]

    def _scores(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        padding = self.model.config.pad_token_id or 0
        length = max(map(len, rows))
        tokens_BT = torch.full((len(rows), length), padding)
        mask_BT = torch.zeros_like(tokens_BT)
        for i, row in enumerate(rows):
            tokens_BT[i, : len(row)] = torch.tensor(row)
            mask_BT[i, : len(row)] = 1
        device = self.model.device
        with torch.inference_mode():
            logits = self.model(tokens_BT.to(device), attention_mask=mask_BT.to(device)).logits.float()
        if self.label is not None:
            several = self.model.config.problem_type == "multi_label_classification"
            logits = (logits.sigmoid() if several else logits.softmax(-1))[:, self.label :]
        scores: list[float] = logits[:, 0].tolist()
        return scores


def load_classifier(spec: str) -> Classifier:
    """The reward that `classifier:SOURCE` or `classifier:SOURCE?label=NAME` names."""
    source, _, query = located(spec).removeprefix(CLASSIFIER).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name != "label":
            raise unknown_name(f"option of reward = {spec!r}", name, ["label"])
    return Classifier(source, **options)


def located(spec: str) -> str:
    """`spec` with a folder made absolute, that of a run replaced by its model's; a hub name stays.

    Raises ConfigError for a folder that does not exist and for a run that left no classifier.
    """
    source, mark, query = spec.removeprefix(CLASSIFIER).partition("?")
    folder = Path(expanded(source, "task.reward"))
    if not source or not folder.is_dir():
        if not source or source[0] in "./~$" or source.count("/") > 1:
            raise ConfigError(
                f"reward = {spec!r}: there is no folder {str(folder)!r} (looked in {Path.cwd()}); give the"
                " folder of a classifier, a run of method reward_model, or a hub name"
            )
        return spec
    if (folder / "provenance.json").is_file():
        if not (folder / "model" / "config.json").is_file():
            raise ConfigError(
                f"reward = {spec!r} is a run directory without a finished classifier; name a run of method"
                f" reward_model (and if it was interrupted, first `evolign resume {quoted(source)}`)"
            )
        folder /= "model"
    return f"{CLASSIFIER}{folder.resolve()}{mark}{query}"


def _loaded(source: str, device: Any) -> tuple[Any, Any]:
    """The model and the tokenizer of `source`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # transformers raises many kinds for one cause
        cause = f"{first_line(error)} ({type(error).__name__})"
        raise ConfigError(
            f"reward = 'classifier:{source}' could not be loaded as a sequence classifier: {cause}; give a"
            " folder with config.json, *.safetensors and tokenizer files, or a hub name"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"reward = 'classifier:{source}' is no sequence classifier: it has no weights for"
            f" {', '.join(missing[:3])}; train one by method reward_model, or give one with a trained head"
        )
    layers = {name for name in report["unexpected_keys"] if re.search(r"\.\d+\.", name)}  # heads may be left
    check_keys(report | {"unexpected_keys": layers}, f"reward = 'classifier:{source}'")
    check_finite(model, f"reward = 'classifier:{source}'")
    return model.to(device).eval(), tokenizer


def _label_id(config: Any, source: str, label: str | None) -> int | None:
    """The number of the label that is the score; None where there is only one."""
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    if label is None:
        if len(names) == 1:
            return None
        raise ConfigError(
            f"reward = 'classifier:{source}' has {len(names)} labels ({', '.join(names[:8])}), and a"
            " reward is one number; say whose probability it is, as in"
            f" 'classifier:{source}?label={names[-1]}'"
        )
    if label in names:
        return names.index(label)
    if label.isdigit() and int(label) < len(names):
        return int(label)
    raise unknown_name(f"label of reward = 'classifier:{source}'", label, names)


def _limit(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model can hold; None is no known limit."""
    config = model.config.get_text_config()
    known = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            known.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from there
    return min((n for n in known if n is not None and n < 10**9), default=None)
