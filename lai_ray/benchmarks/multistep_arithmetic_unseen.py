"""Longer and deeper expressions than multistep_arithmetic has: its test of transfer, without a training split."""

from __future__ import annotations

from typing import ClassVar

from lai_ray.benchmarks.multistep_arithmetic import MultistepArithmetic


class MultistepArithmeticUnseen(MultistepArithmetic):
    """See the module."""

    name = "multistep_arithmetic_unseen"
    splits: tuple[str, ...] = ("test",)
    domain = "out"
    source = None
    kinds: ClassVar[dict[str, tuple[int, ...]]] = {"5": (5,), "6": (6,), "2,2,2": (2, 2, 2)}


BENCHMARK = MultistepArithmeticUnseen()
