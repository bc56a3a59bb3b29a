"""Values that settings share: whole numbers, sizes by dataset, what is replayed. Imports no torch and no ray."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator

Positive = Annotated[int, Field(ge=1)]


def _names(given: Any) -> Any:
    if isinstance(given, str):
        raise ValueError(f'give a list, as ["{given}"]')
    return given


Names = Annotated[list[str], BeforeValidator(_names)]
"""Names in a list; one alone is an error that shows the list."""


def _per_dataset(given: Any) -> int | dict[str, int]:
    numbers = given.values() if isinstance(given, dict) else [given]
    if not numbers or any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError("give a whole number of at least 1, or a table with one for each dataset, as { gsm8k = 2000 }")
    return given  # type: ignore[no-any-return]


PerDataset = Annotated[int | dict[str, int], PlainValidator(_per_dataset)]
"""One number for every dataset, or a table with a number for each."""


def of_dataset(number: int | dict[str, int], dataset: str) -> int:
    """The number of one dataset."""
    return number[dataset] if isinstance(number, dict) else number


def _replay(given: Any) -> int | float | str:
    if given in ("all", "gold"):
        return str(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ValueError('give a share from 0 to 1.0, a count above 1, "all" or "gold"')
    if given > 1 and given != int(given):
        raise ValueError(f"{given:g} is neither a share (at most 1.0) nor a count (a whole number)")
    return given


Replay = Annotated[int | float | str, PlainValidator(_replay)]
"""A share of the right answers, a count of them, "all" or "gold"."""
