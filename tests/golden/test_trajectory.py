"""The trajectory of every strategy on a small quadratic, as recorded in strategies.json.

A change that should not alter results leaves the file as it is. One that should alters it in the
same commit and says so in the changelog:

    python tests/golden/test_trajectory.py      rewrites strategies.json
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolign.strategies import STRATEGIES

GOLDEN = Path(__file__).with_name("strategies.json")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in STRATEGIES},
    "cma_es full": ("cma_es", {"covariance": "full"}),
    "openai_es sgd": ("openai_es", {"optimizer": "sgd", "antithetic": False, "shaping": "mean"}),
    "openai_es centred_rank": ("openai_es", {"shaping": "centred_rank"}),
}


def trajectory(name: str, options: dict[str, Any]) -> list[list[float]]:
    """Mean and sigma after each of five generations, rounded more coarsely than errors add up."""
    strategy = STRATEGIES[name](3, population=6, sigma=0.5, seed=7, **options)
    steps = []
    for _ in range(5):
        theta_ND = strategy.ask()
        strategy.tell(theta_ND, -((theta_ND - np.array([1.0, -2.0, 0.5])) ** 2).sum(axis=1))
        numbers = [*strategy.mean.tolist(), strategy.sigma]
        steps.append([round(number, 10) for number in numbers])
    return steps


def test_the_file_holds_every_variant() -> None:
    assert json.loads(GOLDEN.read_text()).keys() == VARIANTS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trajectory_is_the_recorded_one(variant: str) -> None:
    assert trajectory(*VARIANTS[variant]) == json.loads(GOLDEN.read_text())[variant]


if __name__ == "__main__":
    lines = [f"{json.dumps(key)}: {json.dumps(trajectory(*VARIANTS[key]))}" for key in VARIANTS]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
