"""What all sections of a recipe have in common, and the kinds of their fields.

Every number has an upper bound, and every bound its reason, which the error tells: what no machine holds or
no run reaches is refused before anything is spent.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from evolign.messages import LARGEST_REWARD

LONGEST_PATH = 4096
LONGEST_PART = 255
"""Of a path in bytes: what Linux and macOS take."""


@dataclass(frozen=True)
class Number:
    """A number that `true` is not: pydantic would read it as 1."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self.checked, handler(source))

    def checked(self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        """The number in `value`."""
        if isinstance(value, bool):
            raise PydanticCustomError("no_number", "must be a number, not true or false")
        return handler(value)


@dataclass(frozen=True)
class AtMost(Number):
    """A number with an upper bound, and why there is one."""

    le: float
    reason: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "maximum": self.le}

    def checked(self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        """The number in `value`, which is not above the bound."""
        number = super().checked(value, handler)
        if number > self.le:
            raise PydanticCustomError(
                "at_most",
                "must be at most {le}, since {reason}",
                {"le": told(self.le), "reason": self.reason},
            )
        return number


@dataclass(frozen=True)
class FileName:
    """A text that can be a path or the name of something on a hub."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def checked(self, value: str) -> str:
        """`value`, if a file system takes it."""
        path = value.encode(errors="replace")
        if "\0" in value:
            raise PydanticCustomError("no_name", "must not hold a null character, which ends every path")
        if len(path) > LONGEST_PATH or max(map(len, path.split(b"/"))) > LONGEST_PART:
            raise PydanticCustomError(
                "no_name",
                "must have at most {part} bytes between slashes and {path} in all, as paths do",
                {"part": LONGEST_PART, "path": LONGEST_PATH},
            )
        return value


def told(bound: float) -> str:
    """A bound as messages and pages show it."""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


Auto = Literal["auto"]
Name = Annotated[str, FileName()]
Count = AtMost(10**9, "no run gets that far: at one a millisecond it would take 12 days")
Held = AtMost(10**5, "all are in memory at once")
Weight = AtMost(1e6, "float32 keeps seven digits, so that nothing is left of what it is added to")
Reward = AtMost(LARGEST_REWARD, "squares of larger rewards overflow float32")

Positive = Annotated[int, Field(ge=1), Count]
CountOrNone = Annotated[int, Field(ge=0), Count]
"""A number of steps, generations or rows, which costs time."""
Batch = Annotated[int, Field(ge=1), Held]
"""A number of things that are in memory at once."""
Made = Annotated[int, Field(ge=1), AtMost(25_000, "the rows are made when a run starts, 20,000 a second")]
Tokens = Annotated[int, Field(ge=1), AtMost(10**7, "no model has a longer context")]
Share = Annotated[float, Field(gt=0, le=1), Number()]
Above0 = Annotated[float, Field(gt=0), Weight]
NotBelow0 = Annotated[float, Field(ge=0), Weight]
Minutes = Annotated[float, Field(gt=0), AtMost(525_600, "that is a year; null is no limit")]
Goal = Annotated[float, Field(ge=-LARGEST_REWARD), Reward]
Seed = Annotated[
    int, Field(ge=0), AtMost(2**32 - 1, "NumPy's own generator, which trainers seed, takes no larger one")
]


class Section(BaseModel):
    """What all sections have in common: frozen, no unknown keys, a docstring under every field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
