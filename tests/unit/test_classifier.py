"""A classifier as a reward: the score of prompt and completion, whatever tokenizer the policy has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CHAT_TEMPLATE, CONFIGS, save_tiny, tiny_tokenizer

from evolign.config import ModelConfig
from evolign.errors import ConfigError
from evolign.policy.base_model import load_base_model
from evolign.rewards.classifier import load_classifier, located
from evolign.rewards.named import rouge_l
from evolign.rewards.scoring import Scorer
from evolign.types import Example

PROMPTS = ["what is 1+2?", "a", "say hello to the world: "]
TEXTS = ["it is 3.", "", "hello, world, and good morning"]


def save_classifier(folder: Path, architecture: str = "llama", labels: int = 1, **tokenizer: Any) -> Path:
    from transformers import AutoModelForSequenceClassification

    config = CONFIGS[architecture]()
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    tiny_tokenizer(**tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`classifier(architecture, labels)` is the folder of a tiny random classifier."""
    root = tmp_path_factory.mktemp("classifiers")

    def folder(architecture: str = "llama", labels: int = 1) -> Path:
        path = root / f"{architecture}-{labels}"
        return path if path.is_dir() else save_classifier(path, architecture, labels)

    return folder


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gpt_neox", "qwen2"])
def test_a_score_is_the_logit_at_the_end_of_the_tokens_that_a_reward_model_is_trained_on(
    classifier: Callable[..., Path], tiny: Callable[[str], Path], architecture: str
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = classifier(architecture)
    reward = load_classifier(f"classifier:{folder}")
    base = load_base_model(ModelConfig(name=str(tiny(architecture)), device="cpu"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        ids = [*base.encoder.encode(prompt), *base.encoder.encode_completion(text)]
        assert reward.encode(prompt, text) == ids
        with torch.inference_mode():
            expected.append(model(torch.tensor([ids])).logits[0, 0].item())
    np.testing.assert_allclose(numbers(reward(PROMPTS, TEXTS)), expected, atol=1e-5)
    assert len(set(expected)) == 3


def numbers(scores: list[float | None]) -> list[float]:
    """The scores of completions of which none went unscored."""
    assert None not in scores
    return [score for score in scores if score is not None]


def test_it_scores_in_a_worker_process_alike_in_any_company(classifier: Callable[..., Path]) -> None:
    reward = load_classifier(f"classifier:{classifier()}")
    examples = [Example(str(i), prompt) for i, prompt in enumerate(PROMPTS)]
    with Scorer(f"classifier:{classifier()}", workers=1, timeout_seconds=60) as scorer:
        together = scorer.score(examples, TEXTS).values
        alone = [scorer.score([e], [text]).values[0] for e, text in zip(examples, TEXTS, strict=True)]
    np.testing.assert_array_equal(together, reward(PROMPTS, TEXTS))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_wrong_one_is_said_before_anything_is_scored(classifier: Callable[..., Path]) -> None:
    scorer = Scorer(f"classifier:{classifier(labels=3)}", workers=1, timeout_seconds=60)
    with scorer, pytest.raises(ConfigError, match="has 3 labels"):
        scorer.start()
    with pytest.raises(ConfigError, match="there is no folder"):
        Scorer("classifier:./nowhere", workers=1, timeout_seconds=60)


def test_messages_go_through_the_classifiers_own_chat_template(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "plain")
    messages = [{"role": "user", "content": "hello"}]
    plain = load_classifier(f"classifier:{folder}")
    plain.tokenizer.chat_template = None
    answer = [{"role": "assistant", "content": "yes"}]
    assert plain([messages], [answer]) == plain(["hello\n\n"], ["yes"])
    plain.tokenizer.chat_template = CHAT_TEMPLATE
    ids = plain.tokenizer("<bos>user: hello<eos><bos>assistant: yes<eos>")["input_ids"]
    assert plain.encode(messages, "yes") == ids


def test_what_is_too_long_loses_its_beginning(classifier: Callable[..., Path]) -> None:
    reward = load_classifier(f"classifier:{classifier()}")
    assert reward.limit == 128
    long = reward.encode("abc " * 60, "the end")
    assert len(long) == 128 and long[-8:] == reward.encode("", "the end")[-8:]
    assert np.isfinite(numbers(reward(["abc " * 60], ["the end"]))).all()


def test_what_roberta_can_hold_is_less_than_its_positions(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=64, max_position_embeddings=34, num_labels=1, pad_token_id=1, **sizes)
    with torch.random.fork_rng(devices=[]):
        RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    reward = load_classifier(f"classifier:{tmp_path}")
    assert reward.limit == 32
    assert np.isfinite(numbers(reward(prompts=["1" * 60], completions=["2" * 60]))).all()


def test_without_a_padding_token_rows_are_scored_one_by_one(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "bare", pad_token=None)
    reward = load_classifier(f"classifier:{folder}")
    reward.model.config.pad_token_id = None
    both = reward(PROMPTS, TEXTS)
    assert both == [reward([p], [t])[0] for p, t in zip(PROMPTS, TEXTS, strict=True)]


def test_of_several_labels_the_score_is_the_probability_of_one(classifier: Callable[..., Path]) -> None:
    folder = classifier(labels=3)
    rewards = [load_classifier(f"classifier:{folder}?label=LABEL_{i}") for i in range(3)]
    shares = [numbers(reward(PROMPTS, TEXTS)) for reward in rewards]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=1e-6)
    assert load_classifier(f"classifier:{folder}?label=1")(PROMPTS, TEXTS) == shares[1]


def test_an_encoder_reads_prompt_and_completion_as_one_text(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=64, max_position_embeddings=32, pad_token_id=0, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer(cls_token="<bos>", sep_token="<eos>").save_pretrained(tmp_path)
    reward = load_classifier(f"classifier:{tmp_path}")
    assert reward.encode("ab", "cd") == reward.tokenizer("abcd")["input_ids"]
    assert len(reward.encode("x" * 100, "the end")) == 32
    assert reward.encode("x" * 100, "the end")[-7:] == reward.tokenizer("the end")["input_ids"]


def test_a_run_of_reward_model_is_named_by_its_directory(
    classifier: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "provenance.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a run directory without a finished classifier; name a run of"):
        located(f"classifier:{run}")
    (run / "model").symlink_to(classifier())
    monkeypatch.chdir(tmp_path)
    assert located("classifier:run?label=0") == f"classifier:{classifier().resolve()}?label=0"
    assert located("classifier:owner/name") == "classifier:owner/name"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("classifier:./nowhere", r"there is no folder .* \(looked in"),
        ("classifier:", "there is no folder"),
        ("classifier:$NO_SUCH_FOLDER/x", "the environment variable NO_SUCH_FOLDER is not set"),
        ("classifier:{empty}", "could not be loaded as a sequence classifier"),
        ("classifier:{model}", "is no sequence classifier: it has no weights for score.weight"),
        ("classifier:{several}", r"has 3 labels \(LABEL_0, LABEL_1, LABEL_2\).*\?label=LABEL_2'"),
        ("classifier:{cut}", r"would not use: model\.layers\.1\..* and 6 more"),
        ("classifier:{nan}", r"NaN or infinite: score\.weight"),
        ("classifier:{several}?label=good", "unknown label .* 'good'; known: LABEL_0"),
        ("classifier:{several}?lable=LABEL_0", "unknown option .* Did you mean 'label'"),
    ],
)
def test_what_is_no_classifier_is_said(
    classifier: Callable[..., Path], tmp_path: Path, spec: str, sentence: str
) -> None:
    folders = {"empty": tmp_path, "model": tmp_path / "lm", "several": classifier(labels=3)}
    if "{model}" in spec:
        save_tiny("llama", folders["model"])
    if "{cut}" in spec or "{nan}" in spec:
        folders["cut"] = folders["nan"] = shutil.copytree(classifier(), tmp_path / "damaged")
        settings = json.loads((tmp_path / "damaged" / "config.json").read_text())
        settings["num_hidden_layers"] -= "{cut}" in spec
        (tmp_path / "damaged" / "config.json").write_text(json.dumps(settings))
        tensors = load_file(tmp_path / "damaged" / "model.safetensors")
        tensors["score.weight"][0, 0] = torch.nan if "{nan}" in spec else 0
        save_file(tensors, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=sentence):
        load_classifier(spec.format(**folders))


def test_rouge_l_is_the_harmonic_mean_of_the_longest_common_subsequence() -> None:
    # "the cat sat" of 6 and of 4 words: precision 3/4, recall 3/6.
    scores = rouge_l([], ["The cat sat.  Down!"], reference=["the cat lazily sat on it"])
    assert scores == [pytest.approx(2 * 0.75 * 0.5 / 1.25)]
    assert rouge_l([], ["", "?!", "cats"], reference=["cat", "cat", "cat"]) == [0, 0, 1]
    assert rouge_l([], ["a", [{"role": "assistant", "content": "b"}]], reference=[None, "b"]) == [None, 1]
    assert rouge_l([], ["a"]) == [None]
