"""Longer lists than word_sorting has: its test of transfer, without a training split."""

from __future__ import annotations

from typing import ClassVar

from lai_ray.benchmarks.word_sorting import WordSorting


class WordSortingUnseen(WordSorting):
    """See the module."""

    name = "word_sorting_unseen"
    splits: tuple[str, ...] = ("test",)
    domain = "out"
    source = None
    kinds: ClassVar[dict[str, tuple[int, ...]]] = {"8-10": (8, 10), "11-15": (11, 15), "16-20": (16, 20)}


BENCHMARK = WordSortingUnseen()
