"""Records in files, on a disk or an object store alike, and the keys of what decides a result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from lai_ray.storage.objects import Objects

T = TypeVar("T")


def encode(record: Any) -> bytes:
    """A record (or plain value) as one line of JSON, without the newline."""
    return msgspec.json.encode(record)


@lru_cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(line: bytes, kind: type[T]) -> T:
    """The record in one line. Raises msgspec.ValidationError, which names the field, when it is not one."""
    record: T = _decoder(kind).decode(line)  # type: ignore[arg-type]
    return record


def key_of(*parts: Any) -> str:
    """Hash of everything that decides a result, 32 hex digits. Parts are plain JSON values or records."""
    return hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=16).hexdigest()


def key_of_all(items: Iterable[Any]) -> str:
    """`key_of([*items])`, holding one of them at a time."""
    found = hashlib.blake2b(b"[[", digest_size=16)
    for i, item in enumerate(items):
        found.update(b"," * (i > 0) + msgspec.json.encode(item, order="sorted"))
    found.update(b"]]")
    return found.hexdigest()


def number_of(*parts: Any) -> int:
    """The same as a non-negative number below 2³¹, for seeds and for a seeded order."""
    return int(key_of(*parts)[:8], 16) & 0x7FFFFFFF


class Store:
    """A folder of files on a disk or an object store. Names are relative, with "/" between folders.

    `fence` is called before every write: it raises when this process may no longer write (a newer driver took over).
    """

    def __init__(self, where: str, *, fence: Callable[[], None] | None = None, create: bool = True) -> None:
        self.where, self.fence = where, fence
        self.objects = Objects(where, create=create)
        self.local = self.objects.local
        """The folder on this disk; None in an object store."""

    def inside(self, folder: str) -> Store:
        """The same store, seen from a folder below; made when something is written."""
        return Store(f"{self.where.rstrip('/')}/{folder}", fence=self.fence)

    def exists(self, name: str) -> bool:
        """Whether there is a whole file of that name."""
        return self.objects.exists(name)

    def get(self, name: str) -> bytes | None:
        """The content of a file, or None."""
        return self.objects.get(name)

    def put(self, name: str, content: bytes) -> None:
        """Write a whole file in place of any before it. Raises StageError when there is no room or no right to."""
        self._still_mine()
        self.objects.put(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False when another writer was first."""
        return self.objects.create(name, content)

    def put_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Stream lines into one file, which appears when the last is written."""
        self._still_mine()
        self.objects.put_lines(name, lines)

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, streamed. Raises FileNotFoundError."""
        return self.objects.lines(name)

    def names(self, folder: str = "") -> list[str]:
        """Every file below a folder, sorted. Half-written leftovers of a killed writer are not among them."""
        return sorted(self.objects.sizes(folder))

    def remove(self, names: list[str]) -> None:
        """Remove these files."""
        self._still_mine()
        self.objects.remove(names)

    def get_json(self, name: str) -> Any:
        """A JSON file as a plain value, or None."""
        content = self.get(name)
        return None if content is None else msgspec.json.decode(content)

    def put_json(self, name: str, value: Any) -> None:
        """A plain value as indented JSON, for people."""
        self.put(name, msgspec.json.format(encode(value), indent=2) + b"\n")

    def _still_mine(self) -> None:
        if self.fence is not None:
            self.fence()


class View(Generic[T]):
    """The records of one JSONL file, read anew at each pass: ids may be held in memory, texts not."""

    def __init__(self, store: Store, name: str, kind: type[T]) -> None:
        self.store, self.name, self.kind = store, name, kind

    def __iter__(self) -> Iterator[T]:
        for line in self.store.lines(self.name):
            yield decode(line, self.kind)
