"""What was paid for, remembered: keys, numbered segments, whole files; on a disk or an object store alike.

An object store cannot append, so nothing here does: a growing file is a folder of small closed segments. Every write
appears whole or not at all, and goes the same way to a disk, S3 and GCS (`objects`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from lai_ray.records import Answer, Completion, Mark
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


class _Key(msgspec.Struct):
    key: str


class Segments:
    """Answers in the numbered, closed files of one folder, and those whose file is still open. One writer.

    A place is a number: the segment in the upper bits, the row in the lower twenty.
    """

    def __init__(self, store: Store, *, numbers: Iterable[int] = ()) -> None:
        self.store = store
        self.count = max(numbers, default=-1) + 1
        self.open: list[Answer] = []
        self._read: OrderedDict[int, list[Answer]] = OrderedDict()

    def add(self, answer: Answer) -> int:
        """Keep one in the open segment; returns its place."""
        self.open.append(answer)
        return self.count << 20 | len(self.open) - 1

    def close(self) -> None:
        """Write the open segment, if it holds anything."""
        if self.open:
            self.store.put_lines(f"{self.count:05d}.jsonl", (encode(answer) for answer in self.open))
            self.count += 1
            self.open = []

    def __iter__(self) -> Iterator[Answer]:
        for number in range(self.count):
            yield from (decode(line, Answer) for line in self.store.lines(f"{number:05d}.jsonl"))
        yield from self.open

    def at(self, place: int) -> Answer:
        """The answer in a place. The last few segments stay in memory: neighbours are asked for together."""
        number, row = place >> 20, place & 0xFFFFF
        if number == self.count:
            return self.open[row]
        if number not in self._read:
            self._read[number] = [decode(line, Answer) for line in self.store.lines(f"{number:05d}.jsonl")]
            while len(self._read) > 8:
                self._read.popitem(last=False)
        return self._read[number][row]


def _keys(store: Store, name: str) -> list[bytes]:
    return [bytes.fromhex(decode(line, _Key).key) for line in store.lines(name)]


class Answers:
    """Answers under their keys, in numbered segments: what was paid for is never asked twice.

    One writer. A segment is closed after `rows` answers or `seconds`, whichever is first, also when no further answer
    comes. Failed answers are noted in `failed/` and asked again at the next start. `others` are answer folders of
    other runs: what they hold counts as held here, and is copied into `inherited/` when it is first asked for.
    """

    def __init__(self, store: Store, *, rows: int = 500, seconds: float = 2.0, others: Sequence[Store] = ()) -> None:
        self.store, self.rows, self.seconds = store, rows, seconds
        self._folders: list[Segments] = []
        self._where: dict[bytes, int] = {}
        """By key: the folder's number in the upper bits, the place in it below. One integer, there may be millions."""
        self._elsewhere: dict[bytes, int] = {}
        self._opened = 0.0
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._out: Counter[bytes] = Counter()
        """Sends that nothing has closed, by key. An answer that was never marked as sent is not among them."""
        self._sent_segments = 0
        self._paid, self._inherited, self._failed = self._load()
        for other in others:
            self._look_into(other)

    def _load(self) -> tuple[Segments, Segments, Segments]:
        files: dict[str, list[int]] = {"": [], "inherited": [], "sent": [], "failed": []}
        for name in self.store.names():
            folder, _, file = name.rpartition("/")
            files[folder].append(int(Path(file).stem))
        self._sent_segments = max(files["sent"], default=-1) + 1
        for number in files["sent"]:
            self._out.update(_keys(self.store, f"sent/{number:05d}.jsonl"))
        paid = Segments(self.store, numbers=files[""])
        inherited = Segments(self.store.inside("inherited"), numbers=files["inherited"])
        failed = Segments(self.store.inside("failed"), numbers=files["failed"])
        self._index(inherited, files["inherited"], self._where)
        self._index(paid, files[""], self._where)
        for answer in failed:
            self._close_mark(answer)
        for key in self._out.keys() & self._where.keys():
            if self._found(self._where[key])[0] is paid:
                self._came_back(key)
        return paid, inherited, failed

    def _look_into(self, other: Store) -> None:
        for folder in ("", "inherited"):
            store = other.inside(folder) if folder else other
            numbers = [int(Path(name).stem) for name in store.names() if "/" not in name]
            self._index(Segments(store, numbers=numbers), numbers, self._elsewhere)

    def _index(self, segments: Segments, numbers: Iterable[int], where: dict[bytes, int]) -> None:
        self._folders.append(segments)
        for number in numbers:
            for row, key in enumerate(_keys(segments.store, f"{number:05d}.jsonl")):
                where[key] = self._packed(segments, number << 20 | row)

    def _packed(self, segments: Segments, place: int) -> int:
        return self._folders.index(segments) << 44 | place

    def _found(self, packed: int) -> tuple[Segments, int]:
        return self._folders[packed >> 44], packed & (1 << 44) - 1

    def __contains__(self, key: str) -> bool:
        packed = bytes.fromhex(key)
        return packed in self._where or packed in self._elsewhere

    def __len__(self) -> int:
        return len(self._where)

    def paid(self) -> Iterator[Answer]:
        """Every answer that this run asked for itself, in the order they came."""
        yield from self._paid

    def inherited(self) -> Iterator[Answer]:
        """Every answer taken over from another run."""
        yield from self._inherited

    def keys(self) -> set[str]:
        """Every key that is answered, other runs' answers included."""
        return {key.hex() for key in self._where.keys() | self._elsewhere.keys()}

    def get(self, key: str) -> Completion:
        """The completion recorded under a key. Raises KeyError."""
        packed = bytes.fromhex(key)
        with self._lock:
            if packed not in self._where:
                segments, place = self._found(self._elsewhere[packed])
                self._keep(self._inherited, segments.at(place))
            segments, place = self._found(self._where[packed])
            return segments.at(place).completion

    def record(self, answer: Answer) -> None:
        """Keep one answer. Raises StageError when a segment could not be written; it is kept even so."""
        with self._lock:
            self._keep(self._paid, answer)
            self._came_back(bytes.fromhex(answer.key))

    def fail(self, answer: Answer) -> None:
        """Write down that a request failed. Nothing is remembered by it: it is asked again at the next start."""
        with self._lock:
            self._add(self._failed, answer)
            self._close_mark(answer)
            self._close_full(self._failed)

    def _close_mark(self, answer: Answer) -> None:
        """A failed one stays possibly paid, unless it is known what it took."""
        if answer.free or answer.completion.prompt_tokens or answer.completion.completion_tokens:
            self._came_back(bytes.fromhex(answer.key))

    def _came_back(self, key: bytes) -> None:
        """One send of this key is closed."""
        if self._out[key] > 1:
            self._out[key] -= 1
        else:
            del self._out[key]  # A Counter has nothing against a key it never had.

    def _keep(self, segments: Segments, answer: Answer) -> None:
        """Called with the lock held."""
        self._where[bytes.fromhex(answer.key)] = self._packed(segments, self._add(segments, answer))
        self._close_full(segments)

    def _add(self, segments: Segments, answer: Answer) -> int:
        """Called with the lock held."""
        if not self._is_open:
            self._opened = time.monotonic()
        return segments.add(answer)

    def _close_full(self, segments: Segments) -> None:
        """Called with the lock held, when what was added can be found: if this raises, the end writes it."""
        if self._failure is not None:
            raise self._failure
        if len(segments.open) >= self.rows:
            segments.close()

    @property
    def _is_open(self) -> bool:
        return bool(self._paid.open or self._inherited.open or self._failed.open)

    def mark_sent(self, marks: Sequence[Mark]) -> None:
        """Write down that these are about to be sent, so that a crash cannot hide what may have been paid."""
        self.store.put_lines(f"sent/{self._sent_segments:05d}.jsonl", map(encode, marks))
        self._sent_segments += 1
        self._out.update(bytes.fromhex(mark.key) for mark in marks)

    @property
    def possibly_paid(self) -> int:
        """Sends of which nobody knows whether they were paid for."""
        return self._out.total()

    def __enter__(self) -> Answers:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._close_old_segments, name="answers", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._close_segments()  # After a write that failed, too: there may be room again.

    def _close_old_segments(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            with self._lock:
                if self._is_open and time.monotonic() - self._opened > self.seconds and self._failure is None:
                    try:
                        self._close_segments()
                    except Exception as error:  # raised again where the next answer is recorded
                        self._failure = error

    def _close_segments(self) -> None:
        """Called with the lock held."""
        self._paid.close()
        self._inherited.close()
        self._failed.close()
