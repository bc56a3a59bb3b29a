"""Finds the request that crashes an engine, by bisecting its block.  crashes -> requests to leave out

A block whose replica died is tried again with nothing else at work in the replica. If that dies too, the block is cut
into pieces of PIECE requests, and the piece that crashes into single requests. The request that crashes alone is
answered with an error. A crash for another reason (a lost node, memory that was short once) costs only the first step.

Plain Python, held by one small actor: each replica reports what it begins and asks how to go about a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PIECE = 12
"""Requests in a piece of a block: about the square root of a block, so that crashes and pieces are few."""
MOST_CRASHING = 5
"""Requests that may each crash an engine; with one more the engine is at fault."""
MOST_STARTS = 5
"""Starts of each replica without an answer from any: finding one request takes four crashes."""

Piece = tuple[int, int]
"""Rows of a block: first, one past the last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a replica is to run a block."""

    block: Any
    alone: bool
    """Whether nothing else may run in the replica meanwhile."""
    pieces: list[Piece]
    crashing: dict[int, str]
    """Rows to leave out, and the error that each is answered with."""
    failure: str | None = None
    """Why the stage must end, if it must."""


@dataclass(slots=True)
class _Block:
    """What is known of a block."""

    pieces: list[Piece]
    running: Piece | None = None
    first_id: str = ""
    alone: bool = False
    crashes: int = 0
    crashing: dict[int, str] = field(default_factory=dict)


class CrashIsolation:
    """The blocks, and what happened to the replicas that ran them.

    What is known of a block is kept when it is finished: if its replica dies before the answers have left it, the block
    is run once more.
    """

    def __init__(self, blocks: list[Any], sizes: list[int], replicas: int) -> None:
        """blocks: references, handed out with each plan. sizes: the rows of each."""
        self._references, self._sizes, self._replicas = blocks, sizes, replicas
        self._blocks: dict[int, _Block] = {}
        self._crashing: list[str] = []
        self._starts = 0
        self._error = self._last = ""

    def started(self) -> None:
        """A replica is about to start its engine."""
        self._starts += 1

    def plan(self, number: int) -> Plan:
        """How to run a block. One whose piece is still running is asked for again because its replica died."""
        block = self._blocks.setdefault(number, _Block([(0, self._sizes[number])]))
        if block.running is not None:
            self._crashed(block, block.running)
        return Plan(
            self._references[number], block.alone, list(block.pieces), dict(block.crashing), failure=self._failure()
        )

    def begin(self, number: int, piece: Piece, first_id: str) -> None:
        """A replica begins a piece, whose first request is `first_id`."""
        if block := self._blocks.get(number):
            block.running, block.first_id = piece, first_id
            more = piece[1] - piece[0] - 1
            self._last = first_id + (f" or one of the {more} after it" if more else "")

    def failed(self, error: str) -> None:
        """A replica is about to exit because its engine raised this."""
        self._error = error

    def finish(self, number: int) -> None:
        """A piece is answered."""
        self._starts = 0
        if block := self._blocks.get(number):
            block.running = None

    def _crashed(self, block: _Block, piece: Piece) -> None:
        block.crashes += 1
        # The first time other blocks ran beside it: one of them may have been the cause.
        if block.alone:
            self._split(block, piece)
        block.alone, block.running = True, None

    def _split(self, block: _Block, piece: Piece) -> None:
        start, stop = piece
        at = block.pieces.index(piece)
        if stop - start == 1:
            error = f"the engine died on this request ({block.crashes} times in all){self._reason()}"
            block.crashing[start] = error
            self._crashing.append(block.first_id)
            block.pieces[at : at + 1] = []
            return
        size = PIECE if stop - start > PIECE else 1
        block.pieces[at : at + 1] = [(i, min(i + size, stop)) for i in range(start, stop, size)]

    def _reason(self) -> str:
        return f": {self._error}" if self._error else ""

    def _failure(self) -> str | None:
        if len(self._crashing) > MOST_CRASHING:
            what = f"{len(self._crashing)} requests each crashed the engine alone: {', '.join(self._crashing)}"
        elif self._starts > MOST_STARTS * self._replicas:
            what = f"an engine died {self._starts - self._replicas} times without an answer in between"
            what += f", the last time on {self._last}" if self._last else ""
        else:
            return None
        usually = (
            "Usually the machine has too little memory for the engine, or the engine does not support the model. "
            if not self._error
            else ""
        )
        first = f"{self._error.rstrip('.')}. So " if self._error else ""
        return (
            f"generate: {first}{what}. {usually}See logs/engine-*.log. Answers received so far are kept; run the same "
            "command again to continue."
        )
