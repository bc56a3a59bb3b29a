"""Which request kills the engines: what each was at work on when it died, in ever smaller pieces.  deaths -> killers

A block whose replica died is tried again with the replica to itself, so that the next death is nobody else's. If it
dies then, the block is cut up: into pieces of PIECE, and the piece that kills into single requests. The one that kills
alone is answered with an error, and the rest goes on. An accident (a node that goes, memory that was short once) costs
no more than the first of these steps.

Plain Python, kept by one small actor: every replica tells it what it begins, and asks it what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PIECE = 12
"""Requests in a piece of a block that kills: about the square root of a block, so that there are few deaths and few
pieces."""
MOST_KILLERS = 5
"""So many requests may each kill an engine; with one more it is the engine that is at fault."""
MOST_STARTS = 5
"""So often may each replica be started without an answer from any: one request alone takes four deaths to find."""

Piece = tuple[int, int]
"""Rows of a block: first, one past the last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a replica is to go about a block."""

    block: Any
    alone: bool
    """Nothing else may be at work in the replica meanwhile."""
    pieces: list[Piece]
    killers: dict[int, str]
    """Rows to be left out, and what to answer for them."""
    give_up: str | None = None
    """Why the stage is to end."""


@dataclass(slots=True)
class _Note:
    """What is known of a block."""

    pieces: list[Piece]
    open: Piece | None = None
    first_id: str = ""
    alone: bool = False
    deaths: int = 0
    killers: dict[int, str] = field(default_factory=dict)


class Inquest:
    """The blocks, and what happened to whoever worked on them.

    Nothing learnt of a block is forgotten when it is answered: if its replica dies before the answers are home, it is
    asked for once more.
    """

    def __init__(self, blocks: list[Any], sizes: list[int], replicas: int) -> None:
        """blocks: references, handed out with each plan. sizes: the rows of each."""
        self._blocks, self._sizes, self._replicas = blocks, sizes, replicas
        self._notes: dict[int, _Note] = {}
        self._killers: list[str] = []
        self._starts = 0
        self._said = self._last = ""

    def started(self) -> None:
        """A replica is about to start its engine."""
        self._starts += 1

    def plan(self, number: int) -> Plan:
        """What to do with a block. One that is still open is asked for again because its replica died."""
        note = self._notes.setdefault(number, _Note([(0, self._sizes[number])]))
        if note.open is not None:
            self._died(note, note.open)
        return Plan(self._blocks[number], note.alone, list(note.pieces), dict(note.killers), self._give_up())

    def open(self, number: int, piece: Piece, first_id: str) -> None:
        """A replica begins a piece, whose first request is `first_id`."""
        if note := self._notes.get(number):
            note.open, note.first_id = piece, first_id
            more = piece[1] - piece[0] - 1
            self._last = first_id + (f" or one of the {more} after it" if more else "")

    def broke(self, said: str) -> None:
        """A replica is about to end itself, because its engine raised this."""
        self._said = said

    def close(self, number: int) -> None:
        """A piece is answered."""
        self._starts = 0
        if note := self._notes.get(number):
            note.open = None

    def _died(self, note: _Note, piece: Piece) -> None:
        note.deaths += 1
        # The first time others were at work beside it: it may have been one of them.
        if note.alone:
            self._cut(note, piece)
        note.alone, note.open = True, None

    def _cut(self, note: _Note, piece: Piece) -> None:
        start, stop = piece
        at = note.pieces.index(piece)
        if stop - start == 1:
            note.killers[start] = f"the engine died on this request ({note.deaths} times in all){self._words()}"
            self._killers.append(note.first_id)
            note.pieces[at : at + 1] = []
            return
        size = PIECE if stop - start > PIECE else 1
        note.pieces[at : at + 1] = [(i, min(i + size, stop)) for i in range(start, stop, size)]

    def _words(self) -> str:
        return f": {self._said}" if self._said else ""

    def _give_up(self) -> str | None:
        if len(self._killers) > MOST_KILLERS:
            what = f"{len(self._killers)} requests each killed the engine, alone: {', '.join(self._killers)}"
        elif self._starts > MOST_STARTS * self._replicas:
            what = f"an engine died {self._starts - self._replicas} times and nothing was answered in between"
            what += f", the last time on {self._last}" if self._last else ""
        else:
            return None
        return (
            f"generate: {what}{self._words()}. Mostly the machine has too little memory for the engine, or the engine "
            "and the model do not agree; its last words are in the logs folder. What was done is kept; the same "
            "command goes on from here."
        )
