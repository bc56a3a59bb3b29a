"""What was paid for, remembered: keys, numbered segments, whole files; on a disk or an object store alike.

An object store cannot append, so nothing here does: a growing file is a folder of small closed segments. Every write
appears whole or not at all, and goes through one client (`obstore`) for disk, S3 and GCS.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Answer, Completion, Request

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


def number_of(*parts: Any) -> int:
    """The same as a non-negative number below 2³¹, for seeds and for a seeded order."""
    return int(key_of(*parts)[:8], 16) & 0x7FFFFFFF


class Store:
    """A folder of files on a disk or an object store. Names are relative, with "/" between folders.

    `fence` is called before every write: it raises when this process may no longer write (a newer driver took over).
    """

    def __init__(self, where: str, *, fence: Callable[[], None] | None = None, create: bool = True) -> None:
        self.where = where
        self.fence = fence
        if "://" in where:
            self.local: Path | None = None
            self._store: Any = from_url(where)
        else:
            self.local = Path(where).absolute()
            if not create and not self.local.is_dir():
                raise ConfigError(f"{where}: no such folder")
            try:
                self._store = LocalStore(str(self.local), mkdir=create)
            except (BaseError, OSError) as error:
                raise ConfigError(f"{where}: cannot be used as a folder: {_first_line(error)}") from error

    def inside(self, folder: str) -> Store:
        """The same store, seen from a folder below; made when something is written."""
        return Store(f"{self.where.rstrip('/')}/{folder}", fence=self.fence)

    def exists(self, name: str) -> bool:
        """Whether there is a whole file of that name."""
        try:
            obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        return True

    def get(self, name: str) -> bytes | None:
        """The content of a file, or None."""
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write a whole file in place of any before it. Raises StageError when there is no room or no right to."""
        self._write(name, lambda: obstore.put(self._store, name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False when another writer was first."""
        try:
            obstore.put(self._store, name, content, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise _unwritable(self.where, name, error) from error
        return True

    def put_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Stream lines into one file, which appears when the last is written."""

        def write() -> None:
            with obstore.open_writer(self._store, name) as writer:
                for line in lines:
                    writer.write(line + b"\n")

        self._write(name, write)

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, streamed. Raises FileNotFoundError."""
        rest = b""
        for chunk in obstore.get(self._store, name).stream(min_chunk_size=1 << 20):
            *whole, rest = (rest + bytes(chunk)).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def names(self, folder: str = "") -> list[str]:
        """Every file below a folder, sorted. Half-written leftovers of a killed writer are not among them."""
        prefix = folder.strip("/") + "/" if folder else None
        return sorted(item["path"] for page in obstore.list(self._store, prefix=prefix) for item in page)

    def delete(self, folder: str) -> None:
        """Remove every file below a folder."""
        if self.local is not None:
            shutil.rmtree(self.local / folder, ignore_errors=True)
        else:
            for name in self.names(folder):
                obstore.delete(self._store, name)

    def get_json(self, name: str) -> Any:
        """A JSON file as a plain value, or None."""
        content = self.get(name)
        return None if content is None else msgspec.json.decode(content)

    def put_json(self, name: str, value: Any) -> None:
        """A plain value as indented JSON, for people."""
        self.put(name, msgspec.json.format(encode(value), indent=2) + b"\n")

    def _write(self, name: str, write: Callable[[], Any]) -> None:
        if self.fence is not None:
            self.fence()
        try:
            write()
        except (BaseError, OSError) as error:
            raise _unwritable(self.where, name, error) from error


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]


def _unwritable(where: str, name: str, error: BaseException) -> StageError:
    return StageError(
        f"{where}/{name} could not be written: {_first_line(error)}. Everything written before is kept; "
        "make room (or give the right to write) and start the same command again."
    )


class View(Generic[T]):
    """The records of one JSONL file, read anew at each pass: ids may be held in memory, texts not."""

    def __init__(self, store: Store, name: str, kind: type[T]) -> None:
        self.store, self.name, self.kind = store, name, kind

    def __iter__(self) -> Iterator[T]:
        for line in self.store.lines(self.name):
            yield decode(line, self.kind)


class _Key(msgspec.Struct):
    key: str


class Answers:
    """Answers under their keys, in numbered segments: what was paid for is never asked twice.

    One writer. A segment is closed after `rows` answers or `seconds`, whichever is first, also when no further answer
    comes. Failed answers are not kept here: they are asked again at the next start.
    """

    def __init__(self, store: Store, *, rows: int = 500, seconds: float = 2.0) -> None:
        self.store, self.rows, self.seconds = store, rows, seconds
        self._where: dict[bytes, int] = {}
        self._open: list[Answer] = []
        self._opened = 0.0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._read: OrderedDict[int, list[Answer]] = OrderedDict()
        self._segments = 0
        self._sent: set[bytes] = set()
        self._sent_segments = 0
        self._load()

    def _load(self) -> None:
        for name in self.store.names():
            folder, _, file = name.rpartition("/")
            number = int(Path(file).stem)
            keys = [bytes.fromhex(decode(line, _Key).key) for line in self.store.lines(name)]
            if folder == "sent":
                self._sent_segments = max(self._sent_segments, number + 1)
                self._sent.update(keys)
            else:
                self._segments = max(self._segments, number + 1)
                self._where.update((key, number << 20 | row) for row, key in enumerate(keys))

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._where

    def __len__(self) -> int:
        return len(self._where)

    def get(self, key: str) -> Completion:
        """The completion recorded under a key. Raises KeyError."""
        where = self._where[bytes.fromhex(key)]
        number, row = where >> 20, where & 0xFFFFF
        with self._lock:
            if number == self._segments:
                return self._open[row].completion
        return self._segment(number)[row].completion

    def _segment(self, number: int) -> list[Answer]:
        """One closed segment; the last few stay in memory, since neighbours in a segment are asked for together."""
        if number not in self._read:
            self._read[number] = [decode(line, Answer) for line in self.store.lines(f"{number:05d}.jsonl")]
            while len(self._read) > 8:
                self._read.popitem(last=False)
        return self._read[number]

    def record(self, answer: Answer) -> None:
        """Keep one answer. Raises StageError when an earlier segment could not be written."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if not self._open:
                self._opened = time.monotonic()
            self._where[bytes.fromhex(answer.key)] = self._segments << 20 | len(self._open)
            self._open.append(answer)
            if len(self._open) >= self.rows:
                self._close_segment()

    def mark_sent(self, requests: Iterable[Request]) -> None:
        """Write down that these are about to be sent, so that a crash cannot hide what may have been paid."""
        keys = [request.key for request in requests]
        self.store.put_lines(f"sent/{self._sent_segments:05d}.jsonl", [encode({"key": key}) for key in keys])
        self._sent_segments += 1
        self._sent.update(bytes.fromhex(key) for key in keys)

    @property
    def possibly_paid(self) -> int:
        """Calls that were sent and never recorded."""
        return len(self._sent - self._where.keys())

    def __enter__(self) -> Answers:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._close_old_segments, name="answers", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._open:
                self._close_segment()

    def _close_old_segments(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            with self._lock:
                if self._open and time.monotonic() - self._opened > self.seconds and self._failure is None:
                    try:
                        self._close_segment()
                    except Exception as error:  # raised again where the next answer is recorded
                        self._failure = error

    def _close_segment(self) -> None:
        """Called with the lock held."""
        self.store.put_lines(f"{self._segments:05d}.jsonl", (encode(answer) for answer in self._open))
        self._segments += 1
        self._open = []
