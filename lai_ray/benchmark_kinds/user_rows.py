"""The rows of a user's own data, and the labels that they hold.  [[benchmark]] table -> rows"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lai_ray.benchmark_kinds.rows import Row, hub_rows, read_rows
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.errors import ConfigError, DataError

MOST_LABELS = 50


def own_rows(settings: BenchmarkSettings, split: str) -> Iterator[Row]:
    """The rows of one split. Raises ConfigError when there is no such file, DataError when it holds none."""
    named = getattr(settings, split)
    if settings.hub is not None:
        yield from hub_rows(settings.name, settings.hub, settings.config, named)
        return
    path = Path(named).expanduser()
    if not path.is_file():
        what = f"{named!r} is a folder; name the file" if path.is_dir() else f"no file {named!r}"
        raise ConfigError(f"benchmark {settings.name}: {what} (looked for {path.absolute()})")
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"benchmark {settings.name}: {path} holds no rows")
    yield first
    yield from rows


@lru_cache(maxsize=32)
def _labels_at(path: str, stamp: int, column: str) -> tuple[str, ...]:
    return tuple(sorted({str(row.record[column]).strip() for row in read_rows(Path(path)) if column in row.record}))


def found_labels(settings: BenchmarkSettings, split: str) -> tuple[str, ...]:
    """The different answers of a split, sorted. Raises ConfigError where there are too many to be labels."""
    if settings.hub is not None:
        answers = (row.record.get(settings.answer) for row in own_rows(settings, split))
        found = tuple(sorted({str(answer).strip() for answer in answers if answer is not None}))
    else:
        path = Path(getattr(settings, split)).expanduser()
        found = _labels_at(str(path), path.stat().st_mtime_ns if path.is_file() else 0, settings.answer)
    if len(found) > MOST_LABELS:
        raise ConfigError(
            f"benchmark {settings.name}: {len(found)} different answers in column {settings.answer!r} are no labels; "
            'list `labels`, or use kind = "exact"'
        )
    return found


@lru_cache(maxsize=32)
def told_apart(name: str, labels: tuple[str, ...]) -> None:
    """Raises ConfigError for labels that a reply would not tell apart."""
    known: dict[str, str] = {}
    for label in labels:
        if (other := known.setdefault(label.casefold(), label)) != label:
            raise ConfigError(
                f"benchmark {name}: the labels {other!r} and {label!r} differ in case alone, and a reply is read "
                "without it. Write them alike in the data."
            )
