"""The k nearest, exactly, for any cut of the corpus."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lai_ray.contracts import Neighbours
from lai_ray.distributed.neighbours import topk
from lai_ray.errors import DataError

RNG = np.random.default_rng(0)


def by_hand(queries, corpus, k):
    distances = ((queries[:, None].astype(np.float64) - corpus[None].astype(np.float64)) ** 2).sum(axis=2)
    rows = np.broadcast_to(np.arange(len(corpus)), distances.shape)
    return np.lexsort((rows, distances), axis=-1)[:, :k]


def sloppy(corpus, error=0.0):
    """An index that sees distances as float32 with an error, and breaks ties by the LAST row first."""

    def search(queries, width):
        near = np.float32(((queries[:, None] - corpus[None]) ** 2).sum(axis=2))
        near += np.float32(RNG.uniform(-error, error, near.shape))
        order = np.lexsort((-np.arange(near.shape[1])[None].repeat(len(near), 0), near), axis=-1)[:, :width]
        return np.take_along_axis(near, order, axis=1), order

    return search


def sharded(queries, corpus, k, shards, error=0.0):
    cuts = np.linspace(0, len(corpus), shards + 1).astype(int)
    parts = []
    for a, b in itertools.pairwise(cuts):
        found = topk.nearest_in(queries, corpus[a:b], k, sloppy(corpus[a:b], error))
        parts.append(Neighbours(found.ids + a, found.distances))
    return topk.merge(parts, k)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_the_result_does_not_depend_on_the_cut(shards):
    corpus, queries = RNG.normal(size=(200, 16)).astype(np.float32), RNG.normal(size=(30, 16)).astype(np.float32)
    found = sharded(queries, corpus, 5, shards)
    assert (found.ids == by_hand(queries, corpus, 5)).all()
    assert found.distances.dtype == np.float32
    assert (np.diff(found.distances) >= 0).all()


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_ties_go_to_the_lower_row_however_many_there_are(shards):
    corpus = np.repeat(RNG.normal(size=(3, 8)), 50, axis=0).astype(np.float32)
    found = sharded(corpus[[0, 50, 100]], corpus, 4, shards)
    assert found.ids.tolist() == [[0, 1, 2, 3], [50, 51, 52, 53], [100, 101, 102, 103]]
    assert (found.distances == 0).all()


def test_a_candidate_that_rounding_hid_is_found_by_looking_further():
    base = RNG.normal(size=8).astype(np.float32)
    corpus = np.stack([base + np.float32(1e-7) * i for i in range(60)])
    assert (sharded(base[None], corpus, 3, 1, error=1e-6).ids == by_hand(base[None], corpus, 3)).all()


def test_k_above_the_corpus_is_clamped():
    corpus = RNG.normal(size=(3, 4)).astype(np.float32)
    assert sharded(corpus, corpus, 10, 2).ids.shape == (3, 3)


def test_the_same_pair_has_the_same_distance_in_any_block(monkeypatch):
    corpus, queries = RNG.normal(size=(50, 33)).astype(np.float32), RNG.normal(size=(9, 33)).astype(np.float32)
    rows = np.tile(np.arange(50), (9, 1))
    whole = topk.exact(queries, corpus, rows)
    monkeypatch.setattr(topk, "BLOCK", 1)
    assert (topk.exact(queries, corpus, rows) == whole).all()
    assert (topk.exact(queries[3:4], corpus, rows[:1, 7:9]) == whole[3:4, 7:9]).all()


def test_nan_is_refused_with_its_row():
    bad = np.zeros((4, 2), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match="row 2 of the corpus"):
        topk.checked(np.zeros((1, 2), np.float32), bad, 1)


def test_two_widths_are_refused():
    with pytest.raises(DataError, match="3 wide and the corpus 2"):
        topk.checked(np.zeros((1, 3)), np.zeros((1, 2)), 1)


def test_no_neighbour_cannot_be_asked_for():
    with pytest.raises(ValueError, match="k is 0"):
        topk.checked(np.zeros((1, 2)), np.zeros((1, 2)), 0)
