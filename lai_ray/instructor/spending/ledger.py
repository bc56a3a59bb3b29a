"""The ledger: every send of every request, read from a run's files.  answers/ -> entries -> amounts spent

A mark in `sent/` is written before a request is sent and holds what was reserved for it; a reply in a segment, or a
line in `failed/`, closes it. A mark without either was possibly paid, and counts with all that was reserved.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from lai_ray.instructor.spending.budget import NOTHING, Amount, Price
from lai_ray.records import Mark
from lai_ray.storage.keys import decode
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store

T = TypeVar("T")
PAID = ("answers", "judge_answers")
"""Folders with the answers of receivers that may be paid for."""
PAYING = ("instruct", "rehearse")
"""The stages that ask them."""
PROBE = "probe"
"""The folder of a run with the requests that try how its instructor is reached; they count in the first iteration."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One send of one request."""

    key: str
    id: str
    state: Literal["sent", "done", "failed"]
    reserved: Amount
    used: Amount | None
    """As the provider counted; None where unknown. Zero for a request that was refused."""
    price: tuple[float, float] | None
    """US$ per million tokens in and out, as the job had them when it was sent."""
    limited: int = 0
    """Refusals for the rate limit before its answer."""

    @property
    def counted(self) -> Amount:
        """What it counts for in a budget."""
        return self.reserved if self.used is None else self.used


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent. Budgets count `at_most`."""

    known: Amount = NOTHING
    """Calls whose tokens the provider counted."""
    unknown: Amount = NOTHING
    """The others, each at its worst."""
    uncounted: int = 0
    """Replies without a count of tokens; the other calls of `unknown` are possibly paid."""
    limited: int = 0
    """Refusals for the rate limit, none of which was paid for."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.known + other.known, self.unknown + other.unknown, self.uncounted + other.uncounted,
            self.limited + other.limited,
        )  # fmt: skip

    @property
    def at_most(self) -> Amount:
        """The known amounts, and the others at their worst."""
        return self.known + self.unknown

    @property
    def possibly_paid(self) -> int:
        """Calls without a reply that may have been paid for."""
        return self.unknown.calls - self.uncounted


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Line(msgspec.Struct):
    """An answer as the ledger reads it: without its text."""

    key: str
    id: str
    completion: _Usage
    free: bool = False
    limited: int = 0

    @property
    def used(self) -> Amount | None:
        if self.free:
            return NOTHING
        counted = Amount(1, self.completion.prompt_tokens, self.completion.completion_tokens)
        return counted if counted.tokens else None


def entries(store: Store, longest_reply: int) -> Iterator[Entry]:
    """Every send in one folder of answers, including any without a mark (there should be none).

    longest_reply: instructor.max_tokens, for marks of runs made before reservations were written. Their prompts count
    as the longest that the provider counted in the folder.
    """
    names = store.names()
    marks: dict[str, list[Mark]] = defaultdict(list)
    for mark in _lines(store, names, "sent", Mark):
        marks[mark.key].append(mark)
    prompts = (line.completion.prompt_tokens for line in _lines(store, names, "", _Line))
    longest = max(prompts, default=0) or longest_reply
    old = Amount(1, longest, longest_reply)
    for folder in ("", "failed"):
        for line in _lines(store, names, folder, _Line):
            mark = marks[line.key].pop() if marks.get(line.key) else Mark(line.key)
            state: Literal["failed", "done"] = "failed" if folder else "done"
            yield Entry(line.key, line.id, state, _reserved(mark, old), line.used, mark.price, line.limited)
    for mark in itertools.chain.from_iterable(marks.values()):
        yield Entry(mark.key, mark.id, "sent", _reserved(mark, old), None, mark.price)


def total(sends: Iterable[Entry]) -> Spent:
    """The sum of these sends."""
    known, unknown, uncounted, limited = NOTHING, NOTHING, 0, 0
    for send in sends:
        limited += send.limited
        if send.used is None:
            unknown += send.reserved
            uncounted += send.state == "done"
        else:
            known += send.used
    return Spent(known, unknown, uncounted, limited)


def figures(spent: Spent, price: Price | None) -> dict[str, Any]:
    """The figures of usage.json that come from the ledger; money is None without a price."""
    return {
        "calls": spent.known.calls + spent.uncounted,
        "possibly_paid": spent.possibly_paid,
        "rate_limited": spent.limited,
        "prompt_tokens": spent.known.input,
        "completion_tokens": spent.known.output,
        "usd": price and price.usd(spent.known),
        "unknown_prompt_tokens": spent.unknown.input,
        "unknown_completion_tokens": spent.unknown.output,
        "unknown_usd": price and price.usd(spent.unknown),
    }


def spent_in(run: Run, longest_reply: int) -> dict[int, Spent]:
    """What a run itself spent on its instructor and judge, by iteration, including the pools of a search."""
    by_iteration: dict[int, Spent] = {}
    if sends := list(entries(run.store.inside(f"{PROBE}/{PAID[0]}"), longest_reply)):
        by_iteration[0] = total(sends)
    endings = [f"{stage}/{folder}" for stage in PAYING for folder in PAID]
    for store in (store for ending in endings for store in run.stores_of(ending)):
        number = int(store.where.removeprefix(run.store.where).partition("iteration_")[2].partition("/")[0])
        by_iteration[number] = by_iteration.get(number, Spent()) + total(entries(store, longest_reply))
    return by_iteration


def _lines(store: Store, names: list[str], folder: str, kind: type[T]) -> Iterator[T]:
    for name in names:
        if name.rpartition("/")[0] == folder:
            yield from (decode(line, kind) for line in store.lines(name))


def _reserved(mark: Mark, old: Amount) -> Amount:
    return old if mark.input is None or mark.output is None else Amount(1, mark.input, mark.output)
