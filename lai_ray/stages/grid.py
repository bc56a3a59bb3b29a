"""The grid of a search: the combinations of `[search]`, the job of each, and the pool of replies it learns from.

config -> trials' settings, by their short names for the three lists and dotted for the rest (`search.grid`)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from lai_ray.common.plugins import suggestion
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.config.settings import ContrastSettings, TrainSettings
from lai_ray.config.values import of_dataset
from lai_ray.errors import ConfigError
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of

GRID = {
    *(f"train.{name}" for name in TrainSettings.model_fields),
    *(f"contrast.{name}" for name in ContrastSettings.model_fields),
    "schedule.strategy",
}
ELSEWHERE = {
    "train.learning_rate": "search.learning_rate",
    "train.learning_rate_decay": "search.learning_rate, whose values are each iteration's own",
    "contrast.neighbours": "search.neighbours",
    "curate.samples_per_dataset": "search.samples_per_dataset",
    "contrast.encoder": "two jobs: a run has one encoder",
}
"""Settings that `search.grid` may not list, and where they belong."""


def combinations(config: Config, iteration: int) -> list[dict[str, Any]]:
    """Every trial's settings, numbered in grid order; seeds innermost. Raises ConfigError for a wrong one."""
    search = config.search
    assert search is not None
    for key, values in search.grid.items():
        _check(key, values)
    lists: dict[str, list[Any]] = {
        "learning_rate": search.learning_rate or [config.learning_rate(iteration)],
        "neighbours": search.neighbours or [config.contrast.neighbours],
        "samples_per_dataset": search.samples_per_dataset or [config.curate.samples_per_dataset],
        **search.grid,
        "seed": [config.seed + seed for seed in search.seeds],
    }
    trials = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return [{"name": f"trial_{i}", **settings} for i, settings in enumerate(trials, 1)]


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The job with one trial's settings. Its learning rate is that of this iteration: no decay is applied.

    Raises ConfigError for a value that the setting cannot have.
    """
    table = config.dumped()
    table["train"] |= {"learning_rate": settings["learning_rate"], "learning_rate_decay": 1.0}
    table["contrast"]["neighbours"] = settings["neighbours"]
    table["curate"]["samples_per_dataset"] = settings["samples_per_dataset"]
    for key in GRID & set(settings):
        section, name = key.split(".")
        table[section][name] = settings[key]
    return job_file.parse(table, where="search")


def combination_of(settings: dict[str, Any]) -> str:
    """Equal for trials that differ only in their seeds."""
    return key_of({name: value for name, value in settings.items() if name not in ("name", "seed")})


def most(sizes: Sequence[int | dict[str, int]], datasets: Sequence[str]) -> int | dict[str, int]:
    """The size that includes all of these: every trial learns from a prefix of it."""
    largest = {dataset: max(of_dataset(size, dataset) for size in sizes) for dataset in datasets}
    return largest if len(set(largest.values())) > 1 else max(largest.values())


def pool_of(job: Job, iteration: int, settings: dict[str, Any]) -> str:
    """The name of a trial's pool: made of the settings that shape a request, and of no other."""
    asked = with_settings(job.config, settings)
    names = [asked.schedule.name(iteration, dataset) for dataset in asked.evaluate.learn_from]
    uses_k = any(job.strategies[name].uses_neighbours for name in names)
    listed = [key for key in sorted(GRID & set(settings)) if not key.startswith("train.")]
    shapes = [key for key in listed if uses_k or key == "schedule.strategy"]
    parts = [f"k_{settings['neighbours']}"] * uses_k
    parts += [f"{key.partition('.')[2]}_{_slug(settings[key])}" for key in shapes]
    return "_".join(["pool", *parts])


def pools(job: Job, iteration: int) -> dict[str, list[dict[str, Any]]]:
    """The trials by their pool, in the order of the trials."""
    by_pool: dict[str, list[dict[str, Any]]] = {}
    for settings in combinations(job.config, iteration):
        by_pool.setdefault(pool_of(job, iteration, settings), []).append(settings)
    return by_pool


def pool_job(job: Job, trials: Sequence[dict[str, Any]]) -> Job:
    """The job that asks for a pool, for the largest of its trials."""
    sizes = [settings["samples_per_dataset"] for settings in trials]
    largest = trials[0] | {"samples_per_dataset": most(sizes, job.config.evaluate.learn_from)}
    return job.changed(with_settings(job.config, largest))


def _check(key: str, values: list[Any]) -> None:
    if key in ELSEWHERE:
        raise ConfigError(f"search.grid lists {key}, which belongs in {ELSEWHERE[key]}")
    if key not in GRID:
        can = sorted(GRID - set(ELSEWHERE))
        raise ConfigError(
            f"search.grid lists {key!r}, which cannot be searched over. {suggestion(key, can)}"
            f"It can list {', '.join(can)}; anything else is for `lai sweep`."
        )
    if not values:
        raise ConfigError(f"search.grid lists no value for {key}; give at least one, or remove it")


def _slug(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", str(value)).strip("-")
