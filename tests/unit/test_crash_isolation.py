"""The request that crashes the engine is found in few crashes, and no other is left out."""

from __future__ import annotations

import random

import pytest

from lai_ray.distributed.generation.crash_isolation import MOST_CRASHING, MOST_STARTS, CrashIsolation


def work(
    isolation: CrashIsolation, sizes: list[int], crashing: set[tuple[int, int]]
) -> tuple[dict[int, dict[int, str]], int]:
    """One replica that runs two blocks at a time and dies on some rows: the rows found, and how often it died."""
    found, crashes, queue = {}, 0, list(range(len(sizes)))
    isolation.started()
    while queue:
        plans = {number: isolation.plan(number) for number in queue[:2]}
        assert not any(plan.failure for plan in plans.values()), plans
        together = {number: plan for number, plan in plans.items() if not plan.alone}
        number = next((n for n in plans if n not in together), None)
        if number is None:
            for one, plan in together.items():
                isolation.begin(one, plan.pieces[0], f"{one}")
            crashed = any(one == block for one, _ in crashing for block in together)
            done = [] if crashed else list(together)
        else:
            crashed = crashes_alone(isolation, number, plans[number].pieces, crashing)
            done = [] if crashed else [number]
        for one in done:
            found[one] = plans[one].crashing
            isolation.finish(one)
            queue.remove(one)
        if crashed:
            crashes += 1
            isolation.started()
    return found, crashes


def crashes_alone(
    isolation: CrashIsolation, number: int, pieces: list[tuple[int, int]], crashing: set[tuple[int, int]]
) -> bool:
    for start, stop in pieces:
        isolation.begin(number, (start, stop), f"{number}:{start}")
        if any(block == number and start <= row < stop for block, row in crashing):
            return True
        isolation.finish(number)
    return False


@pytest.mark.parametrize("seed", range(20))
def test_the_crashing_requests_are_found_and_no_others(seed):
    rng = random.Random(seed)
    sizes = [rng.randint(1, 128) for _ in range(6)]
    everything = [(block, row) for block, size in enumerate(sizes) for row in range(size)]
    crashing = set(rng.sample(everything, rng.randint(0, MOST_CRASHING)))
    found, crashes = work(CrashIsolation(list(sizes), sizes, 1), sizes, crashing)
    assert {(block, row) for block, rows in found.items() for row in rows} == crashing
    assert crashes <= 4 * len(crashing)


def test_one_crash_leaves_no_request_out():
    isolation = CrashIsolation(["a", "b"], [128, 128], 1)
    for number in (0, 1):
        isolation.plan(number)
        isolation.begin(number, (0, 128), "")
    plan = isolation.plan(0)
    assert (plan.alone, plan.pieces, plan.crashing) == (True, [(0, 128)], {})


def test_a_block_that_had_not_begun_when_the_replica_died_is_not_run_alone():
    isolation = CrashIsolation(["a", "b"], [128, 128], 1)
    isolation.plan(0)
    isolation.plan(1)
    isolation.begin(0, (0, 128), "")
    assert not isolation.plan(1).alone


def test_a_block_whose_answers_were_lost_with_the_replica_is_not_bisected_again():
    isolation = CrashIsolation(["a"], [2], 1)
    isolation.plan(0)
    for piece in [(0, 2), (0, 2), (0, 1)]:
        isolation.begin(0, piece, "")
        plan = isolation.plan(0)
    assert (plan.pieces, list(plan.crashing)) == ([(1, 2)], [0])
    isolation.begin(0, (1, 2), "")
    isolation.finish(0)
    assert isolation.plan(0) == plan


def test_replicas_that_start_again_and_again_end_the_stage_unless_something_is_answered():
    isolation = CrashIsolation(["a"], [8], 2)
    for _ in range(2 * MOST_STARTS):
        isolation.started()
    assert isolation.plan(0).failure is None
    isolation.started()
    assert "died 9 times without an answer" in isolation.plan(0).failure
    isolation.finish(0)
    isolation.started()
    assert isolation.plan(0).failure is None


def test_too_many_crashing_requests_are_named():
    isolation = CrashIsolation(["a"], [MOST_CRASHING + 1], 1)
    for _ in range(MOST_CRASHING + 3):
        plan = isolation.plan(0)
        assert plan.failure is None
        start, _ = piece = plan.pieces[0]
        isolation.begin(0, piece, f"q{start}")
    assert "6 requests each crashed the engine alone: q0, q1, q2, q3, q4, q5" in isolation.plan(0).failure
