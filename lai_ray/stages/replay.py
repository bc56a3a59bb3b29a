"""The target's own right answers beside the new samples, so that nothing is forgotten.  attempts -> examples

Costs no call and no engine: the answers were given in this iteration's evaluation of the training problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lai_ray.common.chat_template import Example
from lai_ray.records import Attempt
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.curation.words import options
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.job import Job
from lai_ray.storage.keys import number_of

Group = tuple[str, str]
"""A benchmark and one of its groups."""


@dataclass(frozen=True)
class Replay:
    """What is replayed."""

    examples: list[Example]
    facts: dict[str, Any]
    """For the lineage: how many of how many, by group, whose texts, and how many of them may be right by chance."""


def replay(attempts: Attempts, iteration: int, job: Job) -> Replay | None:
    """The right answers that `train.replay` asks for; None where it asks for none.

    A share is of all right answers; of a count no more are taken than there are. Every group gets its part, at least
    one, and within a group the choice is seeded. Left out are answers cut off at the token limit and, unless
    evaluate.learn_from_copies is set, problems that are in a test too.
    """
    wanted = job.config.train.replay
    if not wanted:
        return None
    right, luck = _right(attempts, job)
    available = sum(map(len, right.values()))
    gold = wanted == "gold"
    share = available if isinstance(wanted, str) else wanted * available if wanted <= 1 else wanted
    count = min(math.ceil(share - 1e-9), available)
    parts = apportioned({group: len(ids) for group, ids in right.items()}, count)
    order = job.config.seed, iteration, "replay"
    chosen = {
        name
        for group, ids in right.items()
        for name in sorted(ids, key=lambda name: (number_of(*order, name), name))[: parts[group]]
    }
    facts = {
        "count": len(chosen),
        "of": available,
        "texts": "reference" if gold else "own",
        "groups": {f"{benchmark}/{group}": n for (benchmark, group), n in sorted(parts.items())},
        "right_by_chance": round(luck * len(chosen) / available, 1) if available else 0.0,
    }
    return Replay(list(_examples(attempts, chosen, gold, job)), facts)


def _train_attempts(attempts: Attempts, job: Job) -> Iterator[Attempt]:
    for name in job.config.evaluate.learn_from:
        yield from attempts.of(name, "train")


def _right(attempts: Attempts, job: Job) -> tuple[dict[Group, list[str]], float]:
    """The ids of right answers by group, and how many of all are expected to be right by guessing.

    A guess among m choices that is wrong m - 1 times out of m is right once: the wrong ones tell how many guessed.
    """
    right: dict[Group, list[str]] = {}
    luck = 0.0
    tests = None if job.config.evaluate.learn_from_copies else evaluation_sets(job).only("test")
    for attempt in _train_attempts(attempts, job):
        benchmark = attempt.problem.benchmark
        if attempt.right:
            if attempt.cut_off or (tests is not None and tests.copied(attempt.problem)):
                continue
            group = benchmark, job.benchmark(benchmark).group(attempt.problem)
            right.setdefault(group, []).append(attempt.id)
        elif attempt.grade.status == "graded" and (choices := len(options(attempt.problem))) > 1:
            luck += 1 / (choices - 1)
    return right, min(luck, float(sum(map(len, right.values()))))


def apportioned(sizes: dict[Any, int], count: int) -> dict[Any, int]:
    """`count` shared among groups by their sizes, largest remainders first; each group at least one if possible.

    count: at most the sum of the sizes.
    """
    total = sum(sizes.values())
    if not total:
        return {}
    exact = {group: count * size / total for group, size in sizes.items()}
    parts = {group: math.floor(each) for group, each in exact.items()}
    by_remainder = sorted(sizes, key=lambda group: (parts[group] - exact[group], str(group)))
    for group in by_remainder[: count - sum(parts.values())]:
        parts[group] += 1
    for group in sorted((g for g in sizes if not parts[g]), key=str):
        largest = max(parts, key=lambda g: parts[g])
        if parts[largest] > 1:
            parts[largest], parts[group] = parts[largest] - 1, 1
    return parts


def _examples(attempts: Attempts, chosen: set[str], gold: bool, job: Job) -> Iterator[Example]:
    for attempt in _train_attempts(attempts, job):
        if attempt.id in chosen:
            benchmark = job.benchmark(attempt.problem.benchmark)
            text = benchmark.reference(attempt.problem) if gold else attempt.completion.text
            yield Example(
                f"{attempt.id}+replay", benchmark.prompt(attempt.problem), [(text, job.config.train.replay_weight)]
            )
