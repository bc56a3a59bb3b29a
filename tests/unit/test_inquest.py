"""Which request kills the engines: found by few deaths, and nobody innocent is accused."""

from __future__ import annotations

import random

import pytest

from lai_ray.distributed.generation.crash_isolation import MOST_KILLERS, MOST_STARTS, Inquest


def work(inquest: Inquest, sizes: list[int], killers: set[tuple[int, int]]) -> tuple[dict[int, dict[int, str]], int]:
    """One replica that takes the blocks two at a time, and dies on each killer: the killers found, and the deaths."""
    found, deaths, queue = {}, 0, list(range(len(sizes)))
    inquest.started()
    while queue:
        plans = {number: inquest.plan(number) for number in queue[:2]}
        assert not any(plan.give_up for plan in plans.values()), plans
        together = {number: plan for number, plan in plans.items() if not plan.alone}
        number = next((n for n in plans if n not in together), None)
        if number is None:
            for one, plan in together.items():
                inquest.open(one, plan.pieces[0], f"{one}")
            died = any(one == block for one, _ in killers for block in together)
            done = [] if died else list(together)
        else:
            died = dies_alone(inquest, number, plans[number].pieces, killers)
            done = [] if died else [number]
        for one in done:
            found[one] = plans[one].killers
            inquest.close(one)
            queue.remove(one)
        if died:
            deaths += 1
            inquest.started()
    return found, deaths


def dies_alone(inquest: Inquest, number: int, pieces: list[tuple[int, int]], killers: set[tuple[int, int]]) -> bool:
    for start, stop in pieces:
        inquest.open(number, (start, stop), f"{number}:{start}")
        if any(block == number and start <= row < stop for block, row in killers):
            return True
        inquest.close(number)
    return False


@pytest.mark.parametrize("seed", range(20))
def test_the_killers_are_found_and_nobody_else(seed):
    rng = random.Random(seed)
    sizes = [rng.randint(1, 128) for _ in range(6)]
    everything = [(block, row) for block, size in enumerate(sizes) for row in range(size)]
    killers = set(rng.sample(everything, rng.randint(0, MOST_KILLERS)))
    found, deaths = work(Inquest(list(sizes), sizes, 1), sizes, killers)
    assert {(block, row) for block, rows in found.items() for row in rows} == killers
    assert deaths <= 4 * len(killers)


def test_an_accident_accuses_nobody():
    inquest = Inquest(["a", "b"], [128, 128], 1)
    for number in (0, 1):
        inquest.plan(number)
        inquest.open(number, (0, 128), "")
    plan = inquest.plan(0)
    assert (plan.alone, plan.pieces, plan.killers) == (True, [(0, 128)], {})


def test_a_block_that_only_waited_when_the_replica_died_is_not_suspected():
    inquest = Inquest(["a", "b"], [128, 128], 1)
    inquest.plan(0)
    inquest.plan(1)
    inquest.open(0, (0, 128), "")
    assert not inquest.plan(1).alone


def test_a_block_whose_answers_were_lost_on_the_way_home_is_not_searched_again():
    inquest = Inquest(["a"], [2], 1)
    inquest.plan(0)
    for piece in [(0, 2), (0, 2), (0, 1)]:
        inquest.open(0, piece, "")
        plan = inquest.plan(0)
    assert (plan.pieces, list(plan.killers)) == ([(1, 2)], [0])
    inquest.open(0, (1, 2), "")
    inquest.close(0)
    assert inquest.plan(0) == plan


def test_replicas_that_start_over_and_over_end_the_stage_unless_something_is_answered():
    inquest = Inquest(["a"], [8], 2)
    for _ in range(2 * MOST_STARTS):
        inquest.started()
    assert inquest.plan(0).give_up is None
    inquest.started()
    assert "an engine died 9 times and nothing was answered in between" in inquest.plan(0).give_up
    inquest.close(0)
    inquest.started()
    assert inquest.plan(0).give_up is None


def test_too_many_killers_are_named():
    inquest = Inquest(["a"], [MOST_KILLERS + 1], 1)
    for _ in range(MOST_KILLERS + 3):
        plan = inquest.plan(0)
        assert plan.give_up is None
        start, _ = piece = plan.pieces[0]
        inquest.open(0, piece, f"q{start}")
    assert "6 requests each killed the engine, alone: q0, q1, q2, q3, q4, q5" in inquest.plan(0).give_up
