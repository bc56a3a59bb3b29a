"""Confidence intervals for one score, and for the difference of two on the same problems."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; fractions, not percent."""

    value: float
    low: float
    high: float


def z_of(confidence: float) -> float:
    """1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def score(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval for right of n. Raises ValueError when n < 1."""
    if n < 1:
        raise ValueError("no problems, no score")
    z, p = z_of(confidence), right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(p, centre - half, centre + half)


def paired(before: Mapping[str, bool], after: Mapping[str, bool], confidence: float = 0.95) -> Interval:
    """The mean change over the problems that both answered, by the normal approximation of paired differences.

    Raises ValueError when they share no problem.
    """
    shared = before.keys() & after.keys()
    if not shared:
        raise ValueError("no problem was answered both times")
    gained = sum(after[key] and not before[key] for key in shared)
    lost = sum(before[key] and not after[key] for key in shared)
    n = len(shared)
    mean = (gained - lost) / n
    variance = ((gained + lost) / n - mean * mean) * n / max(n - 1, 1)
    half = z_of(confidence) * math.sqrt(max(variance, 0.0) / n)
    return Interval(mean, mean - half, mean + half)


def sign_test(gained: int, lost: int) -> float:
    """The chance of so uneven a split, or a more uneven one, were both equally likely: McNemar's exact test, two-sided.

    1.0 where nothing changed. Raises ValueError for a negative count.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained, {lost} lost: counts are not below nothing")
    n, fewer = gained + lost, min(gained, lost)
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n))


def mean_over(estimates: Sequence[Interval]) -> Interval:
    """The mean of independent estimates (one a benchmark), its bounds from theirs: MOVER, Zou and Donner 2008.

    Raises ValueError without estimates.
    """
    if not estimates:
        raise ValueError("no estimates, no mean")
    n, mean = len(estimates), statistics.fmean(one.value for one in estimates)
    low = math.sqrt(sum((one.value - one.low) ** 2 for one in estimates)) / n
    high = math.sqrt(sum((one.high - one.value) ** 2 for one in estimates)) / n
    return Interval(mean, mean - low, mean + high)


def t_of(confidence: float, freedom: int) -> float:
    """Student's t for a two-sided interval: 4.303 for 0.95 and 2 degrees of freedom. Raises ValueError below 1."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom; an interval needs two values at least")
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    # With t = tan(a) * sqrt(freedom) the density is scale * sqrt(freedom) * cos(a)^(freedom - 1): finite, so Simpson's
    # rule does, and halving finds the angle.
    low, high, parts = 0.0, math.pi / 2, 400
    for _ in range(60):
        angle = (low + high) / 2
        heights = [math.cos(angle * i / parts) ** (freedom - 1) for i in range(parts + 1)]
        inner = 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
        covered = 2 * scale * math.sqrt(freedom) * angle / parts / 3 * (heights[0] + inner + heights[-1])
        low, high = (angle, high) if covered < confidence else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def mean_of(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values (one a seed) with Student's interval; of one value the interval is all there is.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values, no mean")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = t_of(confidence, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
