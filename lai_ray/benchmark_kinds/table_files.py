"""The rows of one file in any format that tables of rows come in.  path -> rows

JSON lines, a JSON array, an object that holds one array, or a list under each column; CSV with commas, semicolons or
tabs; Parquet and Arrow; each packed by gzip, bzip2, xz or zstd, or not.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.benchmark_kinds.file_bytes import (
    ARROW_FILE,
    ARROW_STREAM,
    PARQUET,
    content,
    refuse_foreign_bytes,
    text_of,
)
from lai_ray.errors import DataError

_KINDS = (".jsonl", ".json", ".csv", ".parquet", ".ndjson", ".tsv", ".arrow")
_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
SUFFIXES = tuple(f"{kind}{packed}" for kind in _KINDS for packed in _PACKED)
"""The formats of a file; where one name exists in several, the first of these is read."""
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""How the name of one of several files ends, without suffix."""
_OF_A_ROW = {"choices", "options", "answers", "messages", "conversations", "conversation", "turns", "tests"}
"""Lists that belong to one row: a file of one row is no list of its choices."""
_SERVED = {"row_idx", "row", "truncated_cells"}
"""The fields around a row in a reply of the hub's server of rows."""
_SEPARATORS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Row:
    """One published record, and where it was read."""

    record: dict[str, Any]
    where: str
    """"<file>:<line>", or "<file>, row <n>" in formats without lines."""
    file: str
    """The file's name without suffix: "abstract_algebra_test". Of a hub row, its split."""


def read_rows(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
    """The rows of one file of any format, in order.

    columns: those of a CSV without a header. Raises DataError with the position of a line that is no JSON, of bytes
    that are no UTF-8, of two columns with one name, or of a row that is no object; and for a file that holds no rows.
    """
    suffix = suffix_of(path)
    stem = SHARD.sub("", path.name.removesuffix(suffix)) if suffix else path.stem
    for where, record in _numbered_rows(path, suffix, columns):
        if not isinstance(record, dict):
            raise DataError(f"{where}: a row must be an object with named fields, not {_short(record)}")
        yield Row(record, where, stem)


def suffix_of(path: Path) -> str:
    """The one of SUFFIXES with which a file's name ends; "" for another name."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), "")


def _numbered_rows(path: Path, suffix: str, columns: tuple[str, ...] | None) -> Iterable[tuple[str, Any]]:
    table = suffix.startswith((".csv", ".tsv"))
    if not table and _holds_lines(path):
        return _lines(path)
    data = content(path)
    if suffix.startswith((".parquet", ".arrow")) or (not suffix and data.startswith((PARQUET, ARROW_FILE))):
        return _columnar(path, data)
    text = text_of(path, data)
    if not table:
        return _json(path, text)
    if text.lstrip().startswith(("{", "[")) and _is_json(text.strip().split("\n", 1)[0]):
        raise DataError(f"{path}: this is JSON; give it a name that ends in .jsonl or .json")
    return _csv(path, text, columns, separator="\t" if suffix.startswith(".tsv") else None)


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
        return json.loads(line, object_pairs_hook=_object)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        other = "" if line.lstrip()[:1] in "{[" else "; a table with a line of column names is called .csv or .tsv"
        raise DataError(f"{where}: not valid JSON ({error}){other}") from error


def _json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The rows of JSON lines; or, where the text is an array or one value over several lines, the array's items."""
    bare = text.strip()
    if bare.startswith("[") or (bare.startswith("{") and "\n" in bare and not _is_json(bare.split("\n", 1)[0])):
        try:
            yield from _numbered(path, _at(path, _loaded_whole(path, bare)))
            return
        except (ValueError, RecursionError) as error:
            if bare.startswith("["):
                line = getattr(error, "lineno", 1) + text.count("\n", 0, text.index("["))
                raise DataError(f"{path}:{line}: not valid JSON ({error})") from error
    # Only "\n" ends a line: str.splitlines also splits at characters that JSON strings may hold.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        record = _loaded(line, f"{path}:{number}")
        items = _at(path, record) if len(lines) == 1 else [record]
        if items != [record]:
            yield from _numbered(path, items)
        else:
            yield f"{path}:{number}", record


def _numbered(path: Path, items: list[Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{path}, row {i}", item) for i, item in enumerate(items))


def _loaded_whole(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _at(path: Path, value: Any) -> list[Any]:
    try:
        return _items(value)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _items(value: Any) -> list[Any]:
    """An array's items; those of an object's only array of objects, as in {"canary": "…", "examples": [{…}, …]}, or of
    a list or object under each column, as pandas writes them; else the value alone."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    arrays = {name: item for name, item in value.items() if isinstance(item, list) and item}
    objects = [name for name, items in arrays.items() if isinstance(items[0], dict) and name not in _OF_A_ROW]
    if isinstance(value.get("rows"), list) and "features" in value:  # The hub's server of rows.
        return [_served(item) for item in value["rows"]]
    if len(objects) == 1:
        return [_served(item) for item in arrays[objects[0]]]
    if set(value) <= {"columns", "index", "data"} and {"columns", "data"} <= set(arrays):
        return [dict(zip(value["columns"], cells, strict=True)) for cells in value["data"]]
    return _by_column(value) or [value]


def _served(item: Any) -> Any:
    """{"row_idx": 0, "row": {…}} as the row alone."""
    if not isinstance(item, dict) or not isinstance(item.get("row"), dict) or set(item) - _SERVED:
        return item
    if cut := item.get("truncated_cells"):
        raise DataError(f"the server shortened {', '.join(cut)} of row {item.get('row_idx')}; download the whole file")
    return item["row"]


def _by_column(value: dict[str, Any]) -> list[Any]:
    """The rows of {"question": ["…", …], "answer": ["…", …]} or {"question": {"0": "…"}, …}; [] for anything else."""
    columns = list(value.values())
    if len(columns) > 1 and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if len(columns) > 1 and all(isinstance(c, dict) and c and list(c) == list(columns[0]) for c in columns):
        if not all(map(str.isdigit, columns[0])):
            return []
        return [{name: column[number] for name, column in value.items()} for number in columns[0]]
    return []


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv(path: Path, text: str, columns: tuple[str, ...] | None, separator: str | None) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    named = re.match(r"sep=([,;\t|])\r?\n", text)  # As Excel writes it.
    separator = separator or (named[1] if named else "," if columns else _separator(text))
    reader = csv.reader(io.StringIO(text[named.end() if named else 0 :], newline=""), strict=True, delimiter=separator)
    skipped = 1 if named else 0
    header = list(columns) if columns else None
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num + skipped}"
            if header is None or set(header) <= set(map(str.strip, cells)):
                header = _header(where, cells)
            elif any(cells) and len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} columns where {len(header)} are expected")
            elif any(cells):
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num + skipped}: not valid CSV ({error}); a cell with quotes is quoted itself, with "
            'its own doubled: "the ""best"" one"'
        ) from error


def _header(where: str, cells: list[str]) -> list[str]:
    """The columns' names. Raises DataError for two of one name."""
    names = [cell.strip("\ufeff \t\r\n") for cell in cells]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"{where}: {_twice(twice[0])}")
    return names


def _twice(name: str) -> str:
    return f"two columns have the name {name!r}; rename or remove one of them"


def _separator(text: str) -> str:
    """Commas where the first rows are a table by them, else the only other separator by which they are one."""
    found = []
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            widths = {len(cells) for cells in itertools.islice(reader, 20) if any(cells)}
        except csv.Error:
            continue
        if len(widths) == 1 and widths != {1}:
            found.append(separator)
    return found[0] if "," in found or len(found) == 1 else ","


def _columnar(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, BufferReader, ipc, parquet

    read = {PARQUET: parquet.read_table, ARROW_FILE: lambda file: ipc.open_file(file).read_all()}
    read[ARROW_STREAM] = lambda file: ipc.open_stream(file).read_all()
    kind = next((first for first in read if data.startswith(first)), None)
    what = "Arrow" if ".arrow" in path.suffixes else "Parquet"
    if kind is None:
        refuse_foreign_bytes(path, data)
        raise DataError(f"{path}: not a readable {what} file; copy it again, or name it by its format")
    try:
        table = read[kind](BufferReader(data))
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable {what} file ({error})") from error
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {_twice(twice[0])}")
    yield from ((f"{path}, row {i}", record) for i, record in enumerate(table.to_pylist()))


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises DataError for a key that occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DataError(f"{_twice(name)}: {_short(value)}")
    return value
