"""Whether two instructors' ways of asking bring different problems: total variation, and how often chance does as much."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence

Replies = Sequence[Sequence[Hashable]]
"""For each reply, a feature of each problem in it."""


def total_variation(one: Replies, other: Replies) -> float:
    """Half the L1 distance of the two distributions of features, 0 to 1."""
    counts = [Counter(feature for reply in replies for feature in reply) for replies in (one, other)]
    totals = [count.total() for count in counts]
    return sum(abs(counts[0][k] / totals[0] - counts[1][k] / totals[1]) for k in counts[0] | counts[1]) / 2


def by_chance(one: Replies, other: Replies, rounds: int = 200) -> float:
    """The share of random divisions of all replies that lie at least as far apart. Replies are moved whole."""
    apart, pooled, rng = total_variation(one, other), [*one, *other], random.Random(0)
    hits = 0
    for _ in range(rounds):
        rng.shuffle(pooled)
        hits += total_variation(pooled[: len(one)], pooled[len(one) :]) >= apart
    return (hits + 1) / (rounds + 1)
