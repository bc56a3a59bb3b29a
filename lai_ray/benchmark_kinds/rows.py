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

import codecs
import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from lai_ray.errors import ConfigError, DataError

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".parquet")
"""The formats of a file; where one name exists in several, the first of these is read."""
_FORMATS = "as .jsonl, .json or .csv, gzipped or not, or .parquet"
_DEPTH = 5
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
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


@dataclass(frozen=True, slots=True)
class Row:
    """One published record, and where it was read."""

    record: dict[str, Any]
    where: str
    """"<file>:<line>", or "<file>, row <n>" in formats without lines."""
    file: str
    """The file's name without suffix: "abstract_algebra_test". Of a hub row, its split."""


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


def read_rows(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
    """The rows of one file of any format, in order.

    columns: those of a CSV without a header. Raises DataError with the position of a line that is no JSON, of bytes
    that are no UTF-8, of a damaged gzip file, or of a row that is no object.
    """
    suffix = _suffix(path)
    stem = _SHARD.sub("", path.name.removesuffix(suffix)) if suffix else path.stem
    if suffix == ".parquet":
        numbered: Iterable[tuple[str, Any]] = _parquet(path)
    elif not suffix.startswith(".csv") and _holds_lines(path):
        numbered = _lines(path)
    else:
        text = _text(path)
        numbered = _csv(path, text, columns) if suffix.startswith(".csv") else _json(path, text)
    for where, record in numbered:
        if not isinstance(record, dict):
            raise DataError(f"{where}: a row must be an object with named fields, not {_short(record)}")
        yield Row(record, where, stem)


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

    read = []
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
        names = _class_names(loaded.features) if named else {}
        for i, record in enumerate(loaded):
            row = {key: names[key].get(value, value) if key in names else value for key, value in record.items()}
            read.append(Row(row, f"{source}, {part}, row {i}", part))
    return tuple(read)


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
        yield from (relative / name for name in names if _suffix(Path(name)))


def _matching(listed: list[Path], name: str) -> list[Path]:
    """The files that match `name`, all from the shallowest folder with a match. `listed` is sorted by depth."""
    wanted = tuple(name.split("/"))
    matching = [path for path in listed if _is_named(path, wanted)]
    if not matching:
        return []
    folder = matching[0].parent
    best: dict[str, Path] = {}
    for path in (path for path in matching if path.parent == folder):
        bare = path.name.removesuffix(_suffix(path))
        if bare not in best or SUFFIXES.index(_suffix(path)) < SUFFIXES.index(_suffix(best[bare])):
            best[bare] = path
    shards = [path for bare, path in best.items() if _SHARD.search(bare)]
    whole = [path for bare, path in best.items() if not _SHARD.search(bare)]
    return sorted(whole or shards)


def _is_named(path: Path, wanted: tuple[str, ...]) -> bool:
    bare = _SHARD.sub("", path.name.removesuffix(_suffix(path)))
    parts = (*path.parent.parts, bare)[-len(wanted) :]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _suffix(path: Path) -> str:
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), "")


def _holds_lines(path: Path) -> bool:
    """Whether a file is uncompressed JSON lines, at least two: it is then read line by line, as it may be large."""
    with path.open("rb") as file:
        first, second, *_ = [*itertools.islice(filter(bytes.strip, file), 2), b"", b""]
    start = first.removeprefix(codecs.BOM_UTF8).strip()
    return bool(second) and start.startswith(b"{") and _is_json(start)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if text := _decoded(line, where).strip():
                yield where, _loaded(text, where)


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not valid UTF-8 (byte 0x{line[error.start]:02x}); save it as UTF-8") from error


def _loaded(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not valid UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from error


def _json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The rows of JSON lines; or, where the text is an array or one value over several lines, the array's items."""
    bare = text.strip()
    if bare.startswith("[") or (bare.startswith("{") and "\n" in bare and not _is_json(bare.split("\n", 1)[0])):
        try:
            yield from _numbered(path, _items(json.loads(bare)))
            return
        except (ValueError, RecursionError) as error:
            if bare.startswith("["):
                line = getattr(error, "lineno", 1) + text.count("\n", 0, text.index("["))
                raise DataError(f"{path}:{line}: not valid JSON ({error})") from error
    # Only "\n" ends a line: str.splitlines also splits at characters that JSON strings may hold.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        record = _loaded(line, f"{path}:{number}")
        if len(lines) == 1 and (items := _items(record)) != [record]:
            yield from _numbered(path, items)
        else:
            yield f"{path}:{number}", record


def _numbered(path: Path, items: list[Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{path}, row {i}", item) for i, item in enumerate(items))


def _items(value: Any) -> list[Any]:
    """An array's items; those of an object's only array of objects, as in {"canary": "…", "examples": [{…}, …]}; else
    the value alone."""
    if isinstance(value, list):
        return value
    arrays = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    return arrays[0] if len(arrays) == 1 and arrays[0] and isinstance(arrays[0][0], dict) else [value]


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv(path: Path, text: str, columns: tuple[str, ...] | None) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = list(columns) if columns else None
    try:
        for cells in reader:
            if header is None or set(header) <= set(cells):
                header = cells
            elif cells and len(cells) != len(header):
                raise DataError(f"{path}:{reader.line_num}: {len(cells)} columns where {len(header)} are expected")
            elif cells:
                yield f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    yield from ((f"{path}, row {i}", record) for i, record in enumerate(table.to_pylist()))


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


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
