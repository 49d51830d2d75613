"""The examples run as they are."""

from importlib import import_module
from pathlib import Path

import pytest

from evolign import embedded

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Python runs a file: its folder is on the path, also for reward workers."""
    monkeypatch.syspath_prepend(EXAMPLES)


def test_minimal_essa_evolves_the_embedded_model_without_importing_evolign() -> None:
    text = (EXAMPLES / "minimal_essa.py").read_text()
    assert "import evolign" not in text and "from evolign" not in text
    assert len(text.splitlines()) <= 150
    greedy, sampled = import_module("minimal_essa").main(embedded.path("arithmetic"))
    assert greedy >= 0.8 and sampled >= 0.7  # from about 0.2; additions alone, one fixed seed


def test_the_python_call_evolves_a_live_model_and_returns_an_adapter_that_peft_has_loaded() -> None:
    result = import_module("python_api").main()
    assert result.summary["generations"] == 4
    assert result.summary["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("completion", "score"),
    [("Paris", 1.0), ("paris.", 1.0), ("Paris is it", 0.96), ("London", 0.0), ("", 0.0)],
)
def test_the_custom_reward_scores_words(completion: str, score: float) -> None:
    reward = import_module("custom_reward").reward
    assert reward(["?"], [completion], answer=["Paris"]) == pytest.approx([score])
    assert reward(["?"], [[{"role": "assistant", "content": completion}]], answer=["Paris"]) == pytest.approx(
        [score]
    )
