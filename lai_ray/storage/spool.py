"""Records kept aside while a stage works on them: in memory while they are few, in a temporary file after that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from lai_ray.storage.keys import decode, encode

T = TypeVar("T")
IN_MEMORY = 8 << 20
"""Bytes up to which no file is made."""


class Spool(Generic[T]):
    """Records of one kind, written once, read as often as wanted, gone with the object."""

    def __init__(self, records: Iterable[T], kind: type[T]) -> None:
        self._kind, self._file = kind, tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # Closed by its end.
        for record in records:
            self._file.write(encode(record) + b"\n")

    def __iter__(self) -> Iterator[T]:
        position = 0
        while True:
            self._file.seek(position)  # Two passes may be under way at once.
            line = self._file.readline()
            if not line:
                return
            position = self._file.tell()
            yield decode(line, self._kind)
