"""The rows of a user's own data, and their labels.  [[benchmark]] table -> rows"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lai_ray.benchmark_kinds.rows import hub_rows, saved_rows
from lai_ray.benchmark_kinds.table_files import Row, read_rows
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.errors import ConfigError, DataError

MAX_LABELS = 50
"""More different answers than this are not taken for labels."""


def user_rows(settings: BenchmarkSettings, split: str) -> Iterator[Row]:
    """The rows of one split. Raises ConfigError when the file does not exist, DataError when it holds no rows."""
    name = getattr(settings, split)
    if settings.hub is not None:
        yield from hub_rows(settings.name, settings.hub, settings.config, name)
        return
    yield from rows_of(name, f"benchmark {settings.name}")


def rows_of(name: str, owner: str) -> Iterator[Row]:
    """The rows of a file, or of a folder that `datasets` has saved. owner: begins the errors, "benchmark reviews".

    Raises ConfigError when there is no such file, DataError when it holds no rows.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise ConfigError(f"{owner}: no file {name!r} (looked for {path.absolute()})")
    rows = _rows_at(path, owner)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{owner}: {path} holds no rows")
    yield first
    yield from rows


def _rows_at(path: Path, owner: str) -> Iterator[Row]:
    if path.is_file():
        return read_rows(path)
    if (path / "state.json").is_file():
        return saved_rows(path)
    there = sorted(inner.name for inner in path.iterdir() if (inner / "state.json").is_file())
    cure = f"name one of its splits: {', '.join(str(path / one) for one in there)}" if there else "name the file"
    raise ConfigError(f"{owner}: {str(path)!r} is a folder; {cure} (looked at {path.absolute()})")


@lru_cache(maxsize=32)
def _labels_at(path: str, stamp: int, column: str) -> tuple[str, ...]:
    answers = (row.record[column] for row in _rows_at(Path(path), "") if column in row.record)
    return tuple(sorted({whole(answer).strip() for answer in answers}))


def whole(value: Any) -> str:
    """A value as text; of a float without decimals the integer that it was: "42"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def labels_in(settings: BenchmarkSettings, split: str) -> tuple[str, ...]:
    """The different answers of a split, sorted. Raises ConfigError where they are more than MAX_LABELS."""
    if settings.hub is not None:
        answers = (row.record.get(settings.answer) for row in user_rows(settings, split))
        labels = tuple(sorted({whole(answer).strip() for answer in answers if answer is not None}))
    else:
        path = Path(getattr(settings, split)).expanduser()
        labels = _labels_at(str(path), path.stat().st_mtime_ns if path.exists() else 0, settings.answer)
    if len(labels) > MAX_LABELS:
        raise ConfigError(
            f"benchmark {settings.name}: {len(labels)} different answers in column {settings.answer!r} are no labels; "
            'list `labels`, or use kind = "exact"'
        )
    return labels


@lru_cache(maxsize=32)
def check_labels(name: str, labels: tuple[str, ...]) -> None:
    """Raises ConfigError for labels that differ in case alone."""
    known: dict[str, str] = {}
    for label in labels:
        if (other := known.setdefault(label.casefold(), label)) != label:
            raise ConfigError(
                f"benchmark {name}: the labels {other!r} and {label!r} differ in case alone, and replies are read "
                "without regard to case. Write them alike in the data."
            )
