"""A benchmark's rows from where its publishers put them: a local folder, or the Hugging Face hub.  source -> rows

A benchmark is a frozen dataclass with a field `source`; a job's [data] table replaces it:

    @dataclass(frozen=True)
    class Gsm8k:
        source: str = "openai/gsm8k"                       # a hub name, or a folder here

        def load(self, split: str) -> Iterator[dict[str, Any]]:
            return (row.record for row in rows(self.name, self.source, place_of(self.name, PLACES, split)))

    PLACES = {"test": Place(files=(("test",), ("main/test",)), config="main", splits=("test",), get="https://…")}

In a folder, a file is known by its upstream name, in whichever form: JSON lines, a JSON array (also in a file called
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
"""The forms a file may have; where one name is there in several, the first of these is read."""
_FORMS = "as .jsonl, .json or .csv, gzipped or not, or .parquet"
_DEPTH = 5
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one split's rows stand upstream."""

    files: tuple[tuple[str, ...], ...]
    """Alternatives, best first. Each lists the files that make the split, without their form: ("test",), or
    ("dev/*_dev", "val/*_val"). A "*" stands for many files, taken in the order of their names."""
    config: str | None
    """The hub's configuration of the data set."""
    splits: tuple[str, ...]
    """The hub's splits that make this one, in order."""
    get: str
    """Where a person gets the files, for the message that says they are missing."""
    columns: tuple[str, ...] | None = None
    """The columns of CSV files that have no header; None where the first line is one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One upstream record, and where it stood."""

    record: dict[str, Any]
    where: str
    """"<file>:<line>", or "<file>, row <n>" where rows are no lines."""
    file: str
    """The file's name without its form: "abstract_algebra_test". Of a hub row, its split."""


def place_of(benchmark: str, places: Mapping[str, Place], split: str) -> Place:
    """The place of a split. Raises ConfigError, which names the splits there are."""
    if split not in places:
        raise ConfigError(f"{benchmark} has no split {split!r}. It has: {', '.join(places)}.")
    return places[split]


def rows(benchmark: str, source: str, place: Place, folders: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows of one split, in upstream order; read once a process and kept, while the files stay as they are.

    source: a folder, or a name on the hub.  folders: other names that the benchmark's own folder goes by; if `source`
    holds a folder with the benchmark's name or one of these, only that one is searched.

    Raises ConfigError when the folder or the file is not there (which was looked for, what is there, where to get it),
    DataError with the line number when a line is broken.
    """
    if not _is_here(source):
        return _from_hub(benchmark, source, place)
    paths = files(benchmark, source, place, folders)
    found = _read(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths), place.columns)
    if not found:
        raise DataError(f"{benchmark}: {', '.join(map(str, paths))}: no rows. Get the file from {place.get}.")
    return found


def files(benchmark: str, source: str, place: Place, folders: tuple[str, ...] = ()) -> list[Path]:
    """The files of one split in a local folder. Raises ConfigError where they are not all there."""
    folder = _own_folder(Path(source).expanduser(), (benchmark, *folders))
    listed = sorted(_listed(folder), key=lambda path: (len(path.parts), path.as_posix()))
    for alternative in place.files:
        found = [_matching(listed, name) for name in alternative]
        if all(found):
            return [folder / path for paths in found for path in paths]
    wanted = "; or ".join(" and ".join(alternative) for alternative in place.files)
    there = ", ".join(path.as_posix() for path in listed[:8]) + (", …" if len(listed) > 8 else "")
    raise ConfigError(
        f"{benchmark}: {folder} does not hold its file. Looked for: {wanted} ({_FORMS}). "
        f"It holds: {there or 'no data file'}. Get it from {place.get}."
    )


def read_rows(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
    """The rows of one file, whatever its form, in order.

    columns: those of a CSV without a header. Raises DataError that says where a file is broken: a line that is no
    JSON, bytes that are no UTF-8, a damaged gzip file, a row that is no object.
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
    """The first of these fields that the record has, as text. Raises DataError with the fields it does have."""
    for name in names:
        if name in record and record[name] is not None:
            return str(record[name])
    wanted = " or ".join(repr(name) for name in names)
    raise DataError(f"no field {wanted} in this row; it has {', '.join(map(str, record)) or 'none'}")


def _is_here(source: str) -> bool:
    """Whether a source means a path: one that exists, or one that could not be a hub name."""
    path = Path(source).expanduser()
    if path.is_file():
        raise ConfigError(f"{source} is a file; name the folder that holds it")
    if path.is_dir():
        return True
    if source.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(source):
        raise ConfigError(f"{source}: no such folder. Name a folder here, or a data set on the Hugging Face hub.")
    return False


def hub_rows(benchmark: str, name: str, config: str | None, split: str) -> tuple[Row, ...]:
    """One split of a data set on the hub. Raises ConfigError when it cannot be had."""
    return _from_hub(benchmark, name, Place((), config, (split,), f"the hub's {name}"), named=True)


@lru_cache(maxsize=32)
def _from_hub(benchmark: str, source: str, place: Place, *, named: bool = False) -> tuple[Row, ...]:
    """named: labels by their names instead of their numbers."""
    import datasets

    found = []
    for split in place.splits:
        try:
            loaded = datasets.load_dataset(source, place.config, split=split)
        except Exception as error:  # the hub's client raises a dozen kinds, and all mean the same to the user
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(
                f"{benchmark}: {source!r} is no folder here, and could not be had from the Hugging Face hub "
                f"(config {place.config}, split {split}: {reason}). Get the files from {place.get} and say where they "
                f'are: [data] {benchmark} = "/path/to/folder".'
            ) from error
        names = _class_names(loaded.features) if named else {}
        for i, record in enumerate(loaded):
            row = {key: names[key].get(value, value) if key in names else value for key, value in record.items()}
            found.append(Row(row, f"{source}, {split}, row {i}", split))
    return tuple(found)


def _class_names(features: Any) -> dict[str, dict[int, str | None]]:
    """By column, the names of labels that a data set on the hub keeps as numbers; -1 is none."""
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
    """Data files below a folder, relative to it, a few levels deep: a source may be a whole disk by mistake."""
    for here, below, names in os.walk(folder):
        relative = Path(here).relative_to(folder)
        below[:] = [name for name in below if not name.startswith(".")] if len(relative.parts) < _DEPTH else []
        yield from (relative / name for name in names if _suffix(Path(name)))


def _matching(listed: list[Path], name: str) -> list[Path]:
    """The files that `name` means, all of the shallowest folder that has any; `listed` is sorted so."""
    wanted = tuple(name.split("/"))
    matching = [path for path in listed if _is_called(path, wanted)]
    if not matching:
        return []
    home = matching[0].parent
    best: dict[str, Path] = {}
    for path in (path for path in matching if path.parent == home):
        bare = path.name.removesuffix(_suffix(path))
        if bare not in best or SUFFIXES.index(_suffix(path)) < SUFFIXES.index(_suffix(best[bare])):
            best[bare] = path
    shards = [path for bare, path in best.items() if _SHARD.search(bare)]
    whole = [path for bare, path in best.items() if not _SHARD.search(bare)]
    return sorted(whole or shards)


def _is_called(path: Path, wanted: tuple[str, ...]) -> bool:
    bare = _SHARD.sub("", path.name.removesuffix(_suffix(path)))
    parts = (*path.parent.parts, bare)[-len(wanted) :]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _suffix(path: Path) -> str:
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), "")


def _holds_lines(path: Path) -> bool:
    """Whether this is plain JSON lines, at least two: such a file is not read into memory, it may have millions."""
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
    """JSON lines; or, where the text is one JSON value over several lines or an array, the items of its array."""
    bare = text.strip()
    if bare.startswith("[") or (bare.startswith("{") and "\n" in bare and not _is_json(bare.split("\n", 1)[0])):
        try:
            yield from _numbered(path, _items(json.loads(bare)))
            return
        except (ValueError, RecursionError) as error:
            if bare.startswith("["):
                line = getattr(error, "lineno", 1) + text.count("\n", 0, text.index("["))
                raise DataError(f"{path}:{line}: not valid JSON ({error})") from error
    # "\n" alone ends a line: str.splitlines would also cut at characters that JSON strings may hold.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        record = _loaded(line, f"{path}:{number}")
        if len(lines) == 1 and (held := _items(record)) != [record]:
            yield from _numbered(path, held)
        else:
            yield f"{path}:{number}", record


def _numbered(path: Path, items: list[Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{path}, row {i}", item) for i, item in enumerate(items))


def _items(value: Any) -> list[Any]:
    """An array's items; those of the only array of objects in {"canary": "…", "examples": [{…}, …]}; else the value."""
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
    """Raises DataError when a record is, by its fields, one of another benchmark."""
    other = next((known for known, fits in _FIELDS.items() if any(all(map(record.get, some)) for some in fits)), name)
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
"""Fields that tell a benchmark's records from all others', the most particular first."""
