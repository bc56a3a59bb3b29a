"""The recipe of a training: the rate of each step, when state is kept, and the job file that a worker reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lai_ray.common.chat_template import Example
from lai_ray.training.recipe import Recipe, read_job, recipe_from, write_job
from tests.tiny_model import recipe

RECIPE = replace(recipe("model", Path("out")), learning_rate=1.0, warmup_steps=2, state_every=0)


def rates(steps: int, **changes: object) -> list[float]:
    return [replace(RECIPE, **changes).rate(step, steps) for step in range(steps)]


def test_the_rate_rises_over_the_warm_up_and_falls_towards_zero_after_the_last_step():
    assert rates(22, schedule="linear") == pytest.approx([0.5, 1.0, *(1 - i / 20 for i in range(20))])
    cosine = rates(22, schedule="cosine")
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[7] == pytest.approx(0.5 + 2**-1.5) and cosine[12] == pytest.approx(0.5)
    assert RECIPE.rate(22, 22) == pytest.approx(0.0)
    assert rates(22, schedule="constant") == [0.5] + [1.0] * 21


def test_the_warm_up_takes_a_tenth_of_the_steps_at_most():
    assert rates(10, schedule="constant", warmup_steps=100) == [1.0] * 10
    assert rates(30, schedule="constant", warmup_steps=100)[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates(9, schedule="linear")[0] == 1.0


def test_a_single_step_has_the_whole_rate():
    assert rates(1, schedule="linear") == rates(1, schedule="cosine") == [1.0]


def test_state_is_kept_every_so_many_steps_but_not_after_the_last():
    kept = replace(RECIPE, state_every=3)
    assert [step for step in range(1, 10) if kept.keeps_state(step, 9)] == [3, 6]
    assert not any(RECIPE.keeps_state(step, 9) for step in range(1, 10))


def test_the_first_epochs_end_in_a_kept_model_and_the_last_in_the_model_itself():
    three = replace(RECIPE, epochs=3, epoch_names=("a", "b"))
    assert [three.epoch_to_keep(step, 12) for step in range(1, 13)] == [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]
    assert not any(replace(three, epoch_names=()).epoch_to_keep(step, 12) for step in range(1, 13))


def test_a_job_file_holds_recipe_lineage_and_examples(tmp_path):
    examples = [
        Example("a", [{"role": "user", "content": "Où?"}], [("hier", 1.0)]),
        Example("b", [{"role": "user", "content": "2"}], [("x", 0.0), ("y", 0.5)]),
    ]
    write_job(tmp_path / "job.json", RECIPE, examples, {"run": "r"})
    read, lineage, found = read_job(tmp_path / "job.json")
    assert (read, lineage) == (RECIPE, {"run": "r"})
    assert isinstance(read, Recipe) and isinstance(read.betas, tuple)
    assert list(found) == examples
    assert recipe_from({name: value for name, value in vars(RECIPE).items() if name != "objective"}) == RECIPE
