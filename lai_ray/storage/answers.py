"""Answers under their keys, so that nothing is paid for twice.

An object store cannot append, so nothing here does: a growing file is a folder of small closed segments.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from lai_ray.records import Answer, Completion, Mark
from lai_ray.storage.keys import decode, encode
from lai_ray.storage.store import Store


class _Key(msgspec.Struct):
    key: str


class Segments:
    """Answers in the numbered, closed files of one folder, and those whose file is still open. One writer.

    A position is a number: the segment in the upper bits, the row in the lower twenty.
    """

    def __init__(self, store: Store, *, numbers: Iterable[int] = ()) -> None:
        self.store = store
        self.count = max(numbers, default=-1) + 1
        self.open: list[Answer] = []
        self._read: OrderedDict[int, list[Answer]] = OrderedDict()

    def add(self, answer: Answer) -> int:
        """Append to the open segment; returns the position."""
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

    def at(self, position: int) -> Answer:
        """The answer at a position. The last few segments stay in memory: neighbours are read together."""
        number, row = position >> 20, position & 0xFFFFF
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
    """Answers under their keys, in numbered segments.

    One writer. A segment is written after `rows` answers or `seconds`, whichever is first, also when no further answer
    arrives. Failed requests are recorded in `failed/` and sent again at the next start, unless they are `final`.
    `others` are answer folders of other runs: their answers count as held here, and are copied into `inherited/` at the
    first `get`.
    """

    def __init__(self, store: Store, *, rows: int = 500, seconds: float = 2.0, others: Sequence[Store] = ()) -> None:
        self.store, self.rows, self.seconds = store, rows, seconds
        self._folders: list[Segments] = []
        self._where: dict[bytes, int] = {}
        """By key: the folder's number in the upper bits, the position in the lower. There may be millions."""
        self._elsewhere: dict[bytes, int] = {}
        self._opened = 0.0
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self.final: dict[str, Completion] = {}
        """Failures that the same request would only pay for again, by key."""
        self._out: Counter[bytes] = Counter()
        """Sends without an answer yet, by key. An answer that was never marked as sent is not among them."""
        self._sent_segments = 0
        self._paid, self._inherited, self._failed = self._load()
        for other in others:
            self._index_other(other)

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
            self.final |= {answer.key: answer.completion} if answer.completion.final else {}
        for key in self._out.keys() & self._where.keys():
            if self._unpacked(self._where[key])[0] is paid:
                self._close_send(key)
        return paid, inherited, failed

    def _index_other(self, other: Store) -> None:
        for folder in ("", "inherited"):
            store = other.inside(folder) if folder else other
            numbers = [int(Path(name).stem) for name in store.names() if "/" not in name]
            self._index(Segments(store, numbers=numbers), numbers, self._elsewhere)

    def _index(self, segments: Segments, numbers: Iterable[int], where: dict[bytes, int]) -> None:
        self._folders.append(segments)
        for number in numbers:
            for row, key in enumerate(_keys(segments.store, f"{number:05d}.jsonl")):
                where[key] = self._packed(segments, number << 20 | row)

    def _packed(self, segments: Segments, position: int) -> int:
        return self._folders.index(segments) << 44 | position

    def _unpacked(self, packed: int) -> tuple[Segments, int]:
        return self._folders[packed >> 44], packed & (1 << 44) - 1

    def __contains__(self, key: str) -> bool:
        packed = bytes.fromhex(key)
        return packed in self._where or packed in self._elsewhere

    def __len__(self) -> int:
        return len(self._where)

    def paid(self) -> Iterator[Answer]:
        """Every answer that this run requested itself, in the order of arrival."""
        yield from self._paid

    def inherited(self) -> Iterator[Answer]:
        """Every answer copied from another run."""
        yield from self._inherited

    def keys(self) -> set[str]:
        """Every key that is answered, other runs' answers included."""
        return {key.hex() for key in self._where.keys() | self._elsewhere.keys()}

    def get(self, key: str) -> Completion:
        """The completion recorded under a key. Raises KeyError."""
        packed = bytes.fromhex(key)
        with self._lock:
            if packed not in self._where:
                segments, position = self._unpacked(self._elsewhere[packed])
                self._keep(self._inherited, segments.at(position))
            segments, position = self._unpacked(self._where[packed])
            return segments.at(position).completion

    def record(self, answer: Answer) -> None:
        """Keep one answer. Raises StageError when a segment could not be written; the answer is kept in memory then."""
        with self._lock:
            self._keep(self._paid, answer)
            self._close_send(bytes.fromhex(answer.key))

    def fail(self, answer: Answer) -> None:
        """Record that a request failed. It is sent again at the next start, unless the failure is final."""
        with self._lock:
            self._add(self._failed, answer)
            self._close_mark(answer)
            self._close_full(self._failed)

    def _close_mark(self, answer: Answer) -> None:
        """A failed request stays possibly paid, unless its cost is known."""
        if answer.free or answer.completion.prompt_tokens or answer.completion.completion_tokens:
            self._close_send(bytes.fromhex(answer.key))

    def _close_send(self, key: bytes) -> None:
        """One send of this key has its answer."""
        if self._out[key] > 1:
            self._out[key] -= 1
        else:
            del self._out[key]  # A Counter ignores a key that it does not have.

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
        """Called with the lock held, after the answer is indexed: if this raises, `__exit__` writes it."""
        if self._failure is not None:
            raise self._failure
        if len(segments.open) >= self.rows:
            segments.close()

    @property
    def _is_open(self) -> bool:
        return bool(self._paid.open or self._inherited.open or self._failed.open)

    def mark_sent(self, marks: Sequence[Mark]) -> None:
        """Record that these are about to be sent, so that a crash cannot hide what may have been paid."""
        self.store.put_lines(f"sent/{self._sent_segments:05d}.jsonl", map(encode, marks))
        self._sent_segments += 1
        self._out.update(bytes.fromhex(mark.key) for mark in marks)

    @property
    def possibly_paid(self) -> int:
        """Sends of which it is not known whether they were paid for."""
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
            self._close_segments()  # After a failed write too: there may be space again.

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
