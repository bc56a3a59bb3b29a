"""Batches of a training. Pure.  lengths, seed -> steps -> each worker's micro-batches

The sequences of a step do not depend on the number of workers, so neither does what is learned; and the order is a
function of (seed, epoch, step, rank), so a resumed training needs no state for it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

POOL = 8
"""Steps whose sequences are sorted by length together: enough for little padding, few enough for a random order."""


def steps(lengths: Sequence[int], *, sequences_per_step: int, epochs: int, seed: int) -> list[list[int]]:
    """The rows of each optimizer step, all epochs. Each epoch holds every row once; one of its steps may be smaller.

    Rows are shuffled, cut into pools of POOL steps, sorted by length inside a pool and cut into steps, and the steps
    shuffled: sequences of one step are of like length, and every epoch and seed has another order.
    """
    plan: list[list[int]] = []
    for epoch in range(epochs):
        chance = random.Random(f"{seed}/{epoch}")
        rows = list(range(len(lengths)))
        chance.shuffle(rows)
        pools = [rows[i : i + POOL * sequences_per_step] for i in range(0, len(rows), POOL * sequences_per_step)]
        ordered = [row for pool in pools for row in sorted(pool, key=lambda row: lengths[row])]
        cut = [ordered[i : i + sequences_per_step] for i in range(0, len(ordered), sequences_per_step)]
        chance.shuffle(cut)
        plan += cut
    return plan


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, workers: int, sequences_per_device: int
) -> list[list[list[int]]]:
    """One step's rows as [pass][rank] -> rows: as few passes as they need, like lengths together, none above the limit.

    The shares differ by one row at most. A rank's share is empty where a step has fewer rows than workers; that rank
    computes a dummy, so that every rank takes part in every collective call.
    """
    passes = max(1, math.ceil(len(rows) / (workers * sequences_per_device)))
    ordered = sorted(rows, key=lambda row: lengths[row])
    shares = passes * workers
    edges = [len(ordered) * i // shares for i in range(shares + 1)]
    parts = [ordered[a:b] for a, b in itertools.pairwise(edges)]
    return [parts[p * workers : (p + 1) * workers] for p in range(passes)]


def padded(passes: list[list[list[int]]], lengths: Sequence[int]) -> int:
    """Tokens that these micro-batches compute, pads included."""
    shares = (share for shares in passes for share in shares if share)
    return sum(len(share) * max(lengths[row] for row in share) for share in shares)
