"""Columns of a user's rows, read by the names that a job gives.  row -> value, text, question

`owner` begins the errors about a column that is not there: "benchmark reviews", "strategy.given".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from lai_ray.benchmark_kinds.column_values import is_missing, of_conversation
from lai_ray.common.plugins import suggestion
from lai_ray.errors import ConfigError, DataError


def column(record: Mapping[str, Any], name: str, owner: str) -> Any:
    """A column's value; "question.stem" is the field of an object. Raises ConfigError with the columns that exist,
    and where another column's name differs from this one in spaces or case alone."""
    names = [str(key) for key in record]
    alike = [key for key in names if _folded(key) == _folded(name)]
    if len(alike) > 1:
        raise ConfigError(
            f"{owner}: the columns {' and '.join(map(repr, alike))} differ in spaces or case alone; "
            "rename or remove one of them"
        )
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    if inner and isinstance(record.get(outer), Mapping):
        return column(record[outer], inner, owner)
    raise ConfigError(f"{owner}: no column {name!r}. {suggestion(name, names)}There are: {', '.join(names)}.")


def text(record: Mapping[str, Any], name: str, owner: str, *, of: Literal["user", "assistant"] = "user") -> str:
    """A column's value as text; of a conversation, what the user or the assistant says.

    Raises DataError for an empty one, and for a value that is no text.
    """
    value = of_conversation(column(record, name, owner), of, name)
    if is_missing(value):
        raise DataError(f"column {name!r} is empty")
    if isinstance(value, Mapping | list | tuple | set | bytes):
        raise DataError(f"column {name!r} holds no text but a {type(value).__name__}: {value!r:.60}")
    read = str(value)
    if not read.isascii() and any("\ud800" <= sign <= "\udfff" for sign in read):
        raise DataError(f"column {name!r} holds half a character (a lone surrogate), which is no UTF-8: {read!r:.60}")
    return read


def question(record: Mapping[str, Any], named: str | list[str], owner: str) -> str:
    """The question of one row: its column, or the texts of several that are not empty, a blank line between them.

    Raises DataError where all are empty, and for Alpaca's `instruction` alone where the row has an `input` too.
    """
    if isinstance(named, str):
        if named == "instruction" and "output" in record and not is_missing(record.get("input")):
            raise DataError(
                f"column 'input' belongs to the question too: {str(record['input'])!r:.60}. Set "
                'question = ["instruction", "input"]'
            )
        return text(record, named, owner)
    filled = [name for name in named if not is_missing(column(record, name, owner))]
    return "\n\n".join(text(record, name, owner) for name in filled or named)


def _folded(name: str) -> str:
    return re.sub(r"[\s\ufeff]+", " ", name).strip().casefold()
