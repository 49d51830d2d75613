"""The examples in docstrings of the strategies and of the pure figures do what they say."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

from evolign import strategies

MODULES = [f"evolign.strategies.{module.name}" for module in pkgutil.iter_modules(strategies.__path__)]
WITH_EXAMPLES = [name for name in MODULES if ">>>" in inspect.getsource(import_module(name))]


def test_every_strategy_shows_an_example() -> None:
    assert {f"evolign.strategies.{name}" for name in strategies.STRATEGIES} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_hold(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0 and result.failed == 0
