"""The rows of a published data set, from a local folder or the Hugging Face hub.  source -> rows

Your own benchmark that loads published files is a frozen dataclass with a field `source`, which a job's [data] table
replaces, and one `SplitSource` per split:

    @dataclass(frozen=True)
    class Gsm8k:
        source: str = "openai/gsm8k"                       # a hub name, or a local folder

        def load(self, split: str) -> Iterator[dict[str, Any]]:
            return (row.record for row in rows(self.name, self.source, source_of(self.name, SOURCES, split)))

    SOURCES = {"test": SplitSource(files=(("test",), ("main/test",)), config="main", splits=("test",), get="https://…")}

In a folder, a file is recognised by its published name, in any format: JSON lines, a JSON array (also in a file called
.jsonl), an object that holds one array, CSV, Parquet (in shards or not), gzipped or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from lai_ray.benchmark_kinds.table_files import SHARD, SUFFIXES, Row, read_rows, suffix_of
from lai_ray.errors import ConfigError, DataError

_FORMATS = "as .jsonl, .json, .csv, .tsv, .parquet or .arrow, packed or not"
_DEPTH = 5
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class SplitSource:
    """Which files in a folder, and which splits on the hub, make one split of a benchmark."""

    files: tuple[tuple[str, ...], ...]
    """Alternatives, best first. Each lists the files that make the split, without suffix: ("test",), or
    ("dev/*_dev", "val/*_val"). "*" matches many files, read in the order of their names."""
    config: str | None
    """The hub's configuration of the data set."""
    splits: tuple[str, ...]
    """The hub's splits that make this one, in order."""
    get: str
    """Where the user can get the files, for the error about missing ones."""
    columns: tuple[str, ...] | None = None
    """The columns of CSV files without a header line; None where the first line is one."""


def source_of(benchmark: str, sources: Mapping[str, SplitSource], split: str) -> SplitSource:
    """The source of a split. Raises ConfigError with the splits that exist."""
    if split not in sources:
        raise ConfigError(f"{benchmark} has no split {split!r}. It has: {', '.join(sources)}.")
    return sources[split]


def rows(benchmark: str, source: str, split: SplitSource, folders: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows of one split, in published order; read once per process, and again when a file changes.

    source: a folder, or a name on the hub.  folders: other names of the benchmark's own folder; where `source` holds a
    folder with the benchmark's name or one of these, only that one is searched.

    Raises ConfigError when the folder or the file does not exist (with what was looked for, what is there and where to
    get it), DataError with the line number when a line is malformed.
    """
    if not _is_local(source):
        return _from_hub(benchmark, source, split)
    paths = files(benchmark, source, split, folders)
    read = _read(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths), split.columns)
    if not read:
        raise DataError(f"{benchmark}: {', '.join(map(str, paths))}: no rows. Get the file from {split.get}.")
    return read


def files(benchmark: str, source: str, split: SplitSource, folders: tuple[str, ...] = ()) -> list[Path]:
    """The files of one split in a local folder. Raises ConfigError where one of them is missing."""
    folder = _own_folder(Path(source).expanduser(), (benchmark, *folders))
    listed = sorted(_listed(folder), key=lambda path: (len(path.parts), path.as_posix()))
    for alternative in split.files:
        matches = [_matching(listed, name) for name in alternative]
        if all(matches):
            return [folder / path for paths in matches for path in paths]
    wanted = "; or ".join(" and ".join(alternative) for alternative in split.files)
    content = ", ".join(path.as_posix() for path in listed[:8]) + (", …" if len(listed) > 8 else "")
    raise ConfigError(
        f"{benchmark}: {folder} does not hold its file. Looked for: {wanted} ({_FORMATS}). "
        f"It holds: {content or 'no data file'}. Get it from {split.get}."
    )


def text_field(record: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that the record has, as text. Raises DataError with the fields that it has."""
    for name in names:
        if name in record and record[name] is not None:
            return str(record[name])
    wanted = " or ".join(repr(name) for name in names)
    raise DataError(f"no field {wanted} in this row; it has {', '.join(map(str, record)) or 'none'}")


def _is_local(source: str) -> bool:
    """True for an existing folder, False for a hub name. Raises ConfigError for anything else."""
    path = Path(source).expanduser()
    if path.is_file():
        raise ConfigError(f"{source} is a file; name the folder that holds it")
    if path.is_dir():
        return True
    if source.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(source):
        raise ConfigError(f"{source}: no such folder. Name a local folder, or a data set on the Hugging Face hub.")
    return False


def hub_rows(benchmark: str, name: str, config: str | None, split: str) -> tuple[Row, ...]:
    """One split of a data set on the hub, labels by name. Raises ConfigError when it cannot be loaded."""
    return _from_hub(benchmark, name, SplitSource((), config, (split,), f"the hub's {name}"), named=True)


@lru_cache(maxsize=32)
def _from_hub(benchmark: str, source: str, split: SplitSource, *, named: bool = False) -> tuple[Row, ...]:
    """named: labels by their names instead of their numbers."""
    import datasets

    read: list[Row] = []
    for part in split.splits:
        try:
            loaded = datasets.load_dataset(source, split.config, split=part)
        except Exception as error:  # The hub's client raises a dozen classes; to the user all mean the same.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(
                f"{benchmark}: {source!r} is no local folder, and loading it from the Hugging Face hub failed "
                f"(config {split.config}, split {part}: {reason}). Get the files from {split.get} and name their "
                f'folder in the job: [data] {benchmark} = "/path/to/folder".'
            ) from error
        read += _loaded_rows(loaded, f"{source}, {part}", part, named=named)
    return tuple(read)


def saved_rows(folder: Path) -> Iterator[Row]:
    """The rows of a folder that `datasets` has saved, labels by name. Raises DataError for a damaged one."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # As above: a dozen classes of errors.
        raise DataError(f"{folder}: not a data set that can be read ({error}); save it again") from error
    yield from _loaded_rows(loaded, str(folder), folder.name, named=True)


def _loaded_rows(loaded: Any, where: str, file: str, *, named: bool) -> Iterator[Row]:
    """named: labels by their names instead of their numbers."""
    names = _class_names(loaded.features) if named else {}
    for i, record in enumerate(loaded):
        row = {key: names[key].get(value, value) if key in names else value for key, value in record.items()}
        yield Row(row, f"{where}, row {i}", file)


def _class_names(features: Any) -> dict[str, dict[int, str | None]]:
    """Column -> label number -> its name, for a data set on the hub that stores labels as numbers; -1 is no label."""
    return {
        column: {-1: None, **dict(enumerate(feature.names))}
        for column, feature in (features or {}).items()
        if hasattr(feature, "names")
    }


@lru_cache(maxsize=32)
def _read(stamped: tuple[tuple[str, int, int], ...], columns: tuple[str, ...] | None) -> tuple[Row, ...]:
    return tuple(row for path, *_ in stamped for row in read_rows(Path(path), columns))


def _own_folder(source: Path, names: tuple[str, ...]) -> Path:
    return next((source / name for name in names if (source / name).is_dir()), source)


def _listed(folder: Path) -> Iterator[Path]:
    """Data files below a folder, relative to it. At most _DEPTH levels: a source may be a whole disk by mistake."""
    for parent, folders, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")] if len(relative.parts) < _DEPTH else []
        yield from (relative / name for name in names if suffix_of(Path(name)))


def _matching(listed: list[Path], name: str) -> list[Path]:
    """The files that match `name`, all from the shallowest folder with a match. `listed` is sorted by depth."""
    wanted = tuple(name.split("/"))
    matching = [path for path in listed if _is_named(path, wanted)]
    if not matching:
        return []
    folder = matching[0].parent
    best: dict[str, Path] = {}
    for path in (path for path in matching if path.parent == folder):
        bare = path.name.removesuffix(suffix_of(path))
        if bare not in best or SUFFIXES.index(suffix_of(path)) < SUFFIXES.index(suffix_of(best[bare])):
            best[bare] = path
    shards = [path for bare, path in best.items() if SHARD.search(bare)]
    whole = [path for bare, path in best.items() if not SHARD.search(bare)]
    return sorted(whole or shards)


def _is_named(path: Path, wanted: tuple[str, ...]) -> bool:
    bare = SHARD.sub("", path.name.removesuffix(suffix_of(path)))
    parts = (*path.parent.parts, bare)[-len(wanted) :]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def refuse_foreign(name: str, record: Mapping[str, Any]) -> None:
    """Raises DataError when a record's fields are those of another benchmark."""
    other = next((known for known, sets in _FIELDS.items() if any(all(map(record.get, some)) for some in sets)), name)
    if other != name:
        raise DataError(f"this row is a record of {other}, not of {name}; it has {', '.join(map(str, record))}")


_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "humaneval": (("canonical_solution", "entry_point"),),
    "mbpp": (("entry_point", "test"), ("test_list", "code"), ("test_list", "text"), ("test_list", "prompt")),
    "gsm_plus": (("extracted_answer",), ("perturbation_type",)),
    "arc_challenge": (("answerKey", "choices"), ("label", "question")),
    "mmlu": (("subject", "choices"), ("subject", "A", "B")),
    "bbh": (("input", "target"),),
}
"""Benchmark -> sets of fields that identify its records, the most specific first."""
