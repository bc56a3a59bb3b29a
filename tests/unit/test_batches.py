"""What a step is made of: every row once, little padding, the same step whatever the workers."""

from __future__ import annotations

import random

import pytest

from lai_ray.errors import DataError
from lai_ray.training import batches
from lai_ray.training.recipe import recipe_from

LENGTHS = [int(random.Random(i).lognormvariate(5, 0.4)) for i in range(1000)]


def planned(seed: int = 0, epochs: int = 1) -> list[list[int]]:
    return batches.steps(LENGTHS, sequences_per_step=32, epochs=epochs, seed=seed)


def test_every_row_is_learned_once_an_epoch():
    plan = planned(epochs=2)
    assert sorted(row for step in plan for row in step) == sorted(list(range(1000)) * 2)
    assert sorted(len(step) for step in plan[:32]) == [8] + [32] * 31


def test_the_order_repeats_with_the_seed_and_changes_with_epoch_and_seed():
    twice = planned(epochs=2)
    assert planned(epochs=2) == twice
    assert twice[:32] != twice[32:]
    assert planned(seed=1) != planned(seed=0)


def test_one_epoch_is_the_beginning_of_two():
    assert planned(epochs=2)[:32] == planned(epochs=1)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [[5], [3, 4], list(range(7)), list(range(32))])
def test_workers_share_a_step_whole_and_evenly(workers, rows):
    passes = batches.micro_batches(rows, LENGTHS, workers=workers, sequences_per_device=2)
    sizes = [len(share) for shares in passes for share in shares]
    assert sorted(row for shares in passes for share in shares for row in share) == rows
    assert all(len(shares) == workers for shares in passes)
    assert max(sizes) <= 2
    assert max(sizes) - min(sizes) <= 1


def test_little_is_padded_in_passes_of_eight():
    passes = [batches.micro_batches(step, LENGTHS, workers=1, sequences_per_device=8) for step in planned()]
    assert 1 - sum(LENGTHS) / sum(batches.padded(each, LENGTHS) for each in passes) < 0.05


def test_a_recipe_with_an_unknown_key_is_refused_with_its_name():
    with pytest.raises(DataError, match="learning_rat"):
        recipe_from({"learning_rat": 1.0})
