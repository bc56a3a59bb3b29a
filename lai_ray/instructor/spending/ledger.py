"""Every send of every request, as the files of a run tell it after any kill.  answers/ -> entries -> what was spent

A mark in `sent/` is written before a request goes out and holds what was reserved for it; a reply in a segment, or a
line in `failed/`, closes it. A mark that nothing closes was possibly paid, and counts with all that was reserved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from lai_ray.instructor.spending.budget import NOTHING, Amount
from lai_ray.records import Mark
from lai_ray.storage.keys import decode
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store

PAID = ("answers", "judge_answers")
"""Folders with the answers of receivers that may send a bill."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One send of one request."""

    key: str
    id: str
    state: Literal["sent", "done", "failed"]
    reserved: Amount
    used: Amount | None
    """As the provider counted; None where nobody knows. Nothing at all for a request that was turned away."""
    price: tuple[float, float] | None
    """US$ per million tokens, as the job said when it was sent."""

    @property
    def counted(self) -> Amount:
        """What it takes from a budget."""
        return self.reserved if self.used is None else self.used


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent. `at_most` is what budgets go by."""

    known: Amount = NOTHING
    """Calls whose tokens the provider counted."""
    unknown: Amount = NOTHING
    """The others, each at its worst."""
    silent: int = 0
    """Replies that came without a count of tokens; the rest of `unknown` is possibly paid."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.known + other.known, self.unknown + other.unknown, self.silent + other.silent)

    @property
    def at_most(self) -> Amount:
        """All of it."""
        return self.known + self.unknown

    @property
    def possibly_paid(self) -> int:
        """Calls without a reply that may have been paid for."""
        return self.unknown.calls - self.silent


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Line(msgspec.Struct):
    """What the ledger reads of an answer: never its text."""

    key: str
    id: str
    completion: _Usage
    free: bool = False

    @property
    def used(self) -> Amount | None:
        if self.free:
            return NOTHING
        usage = self.completion
        counted = usage.prompt_tokens + usage.completion_tokens
        return Amount(1, usage.prompt_tokens, usage.completion_tokens) if counted else None


def entries(store: Store, longest_reply: int) -> Iterator[Entry]:
    """Every send in one folder of answers, those without a mark (none should be) included.

    longest_reply: instructor.max_tokens, for marks of runs made before reservations were written. Their prompts count
    as the longest that the provider counted in the folder.
    """
    names = store.names()
    marks: dict[str, list[Mark]] = defaultdict(list)
    for name in _in(names, "sent"):
        for mark in (decode(line, Mark) for line in store.lines(name)):
            marks[mark.key].append(mark)
    longest = max((line.completion.prompt_tokens for line in _lines(store, names, "")), default=0) or longest_reply
    old = Amount(1, longest, longest_reply)
    for folder in ("", "failed"):
        for line in _lines(store, names, folder):
            mark = marks[line.key].pop() if marks.get(line.key) else Mark(line.key)
            yield Entry(line.key, line.id, "failed" if folder else "done", _reserved(mark, old), line.used, mark.price)
    for left in marks.values():
        for mark in left:
            yield Entry(mark.key, mark.id, "sent", _reserved(mark, old), None, mark.price)


def total(found: Iterable[Entry]) -> Spent:
    """What these sends took."""
    known, unknown, silent = NOTHING, NOTHING, 0
    for entry in found:
        if entry.used is None:
            unknown += entry.reserved
            silent += entry.state == "done"
        else:
            known += entry.used
    return Spent(known, unknown, silent)


def spent_in(run: Run, longest_reply: int) -> dict[int, Spent]:
    """What a run spent itself on its instructor and judge, by iteration, the pools of a search included."""
    by_iteration: dict[int, Spent] = {}
    for store in (store for folder in PAID for store in run.stores_of(f"instruct/{folder}")):
        number = int(store.where.removeprefix(run.store.where).partition("iteration_")[2].partition("/")[0])
        by_iteration[number] = by_iteration.get(number, Spent()) + total(entries(store, longest_reply))
    return by_iteration


def _in(names: list[str], folder: str) -> list[str]:
    return [name for name in names if name.rpartition("/")[0] == folder]


def _lines(store: Store, names: list[str], folder: str) -> Iterator[_Line]:
    for name in _in(names, folder):
        yield from (decode(line, _Line) for line in store.lines(name))


def _reserved(mark: Mark, old: Amount) -> Amount:
    return old if mark.input is None or mark.output is None else Amount(1, mark.input, mark.output)
