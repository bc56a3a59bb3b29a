"""What a file is by its first bytes: packed, a text, or what only its name calls data.  path -> bytes, text"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from lai_ray.errors import DataError

HEAD = 4096
"""Bytes from a file's start that tell what it is."""
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def _from_zstd(data: bytes) -> bytes:
    import pyarrow

    with pyarrow.input_stream(pyarrow.py_buffer(data), compression="zstd") as stream:
        return bytes(stream.read())


_PACKED: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", _from_zstd),
}
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Byte order marks; UTF-32 first, as its mark begins with that of UTF-16."""
_UNPACK = "unpack it, and name the file that it holds"
_FOREIGN: dict[bytes, tuple[str, str]] = {
    b"\xd0\xcf\x11\xe0": ("an Office document", "save the sheet as CSV (UTF-8)"),
    b"%PDF": ("a PDF document", "put its rows into a CSV file or JSON lines"),
    PARQUET: ("a Parquet file", "give it a name that ends in .parquet"),
    ARROW_FILE: ("an Arrow file", "give it a name that ends in .arrow"),
    ARROW_STREAM: ("an Arrow file", "give it a name that ends in .arrow"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x93NUMPY": ("a numpy array", "write its rows as JSON lines"),
    b"\x89HDF": ("an HDF5 file", "write its rows as JSON lines"),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "run `git lfs pull` where it is from"),
    **{
        bytes([0x80, version]): ("a Python pickle, which could run any code", "write its rows as JSON lines")
        for version in (2, 3, 4, 5)
    },
}  # fmt: skip
"""First bytes -> what such a file is, and what to do."""


def content(path: Path) -> bytes:
    """A file's bytes, unpacked. Raises DataError for a damaged file, and for one that holds no table of rows."""
    data = path.read_bytes()
    for first, (name, unpack) in _PACKED.items():
        if data.startswith(first):
            try:
                return unpack(data)
            except (OSError, EOFError, ValueError, NotImplementedError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"{path}: damaged {name} file ({error}); copy it again, or unpack it") from error
    return data


def text_of(path: Path, data: bytes) -> str:
    """The text of a file's bytes, in UTF-8, or as a byte order mark says. Raises DataError for what is no text."""
    refuse_foreign_bytes(path, data)
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not valid {encoding.removesuffix('-sig').upper()} (byte 0x{data[error.start]:02x}); save "
            "it as UTF-8"
        ) from error


def refuse_foreign_bytes(path: Path, data: bytes) -> None:
    """Raises DataError, with what to do, for a file that is no table of rows by its first bytes."""
    what, cure = _foreign(data[:HEAD]) or ("", "")
    if what:
        raise DataError(f"{path}: by its first bytes this is {what}: {cure}")


def _foreign(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in head or b"xl/" in head or b"mimetypeapplication/vnd" in head:
            return "an Excel workbook or another Office document", "save the sheet as CSV (UTF-8)"
        return "a zip archive", _UNPACK
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    known = next((value for first, value in _FOREIGN.items() if head.startswith(first)), None)
    if known or any(map(head.startswith, _MARKS)):
        return known
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (or XML), perhaps an error of the server", "open it, and download the file itself"
    if b"\0" in head:
        return "no text", "save it as UTF-8"
    return None
