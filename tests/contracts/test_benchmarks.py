"""What every benchmark promises (`lai_ray.cli.contracts`), tried on every file in lai_ray/benchmarks.

Benchmarks that load published files read them below LAI_TEST_DATA, in a folder with their name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from lai_ray.cli import contracts
from lai_ray.common import plugins

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
NAMES = plugins.available("benchmarks")
LEARNED = [name for name in NAMES if "train" in plugins.load("benchmarks", name).splits]


@cache
def loaded(name: str):
    benchmark = plugins.load("benchmarks", name)
    if not getattr(benchmark, "source", None):
        return benchmark
    if not (DATA / name).is_dir():
        pytest.skip(f"the published files of {name} are not in {DATA}")
    return replace(benchmark, source=str(DATA / name))


@cache
def examined(name: str) -> contracts.Examined:
    return contracts.Examined(loaded(name))


def problems(name: str, split: str):
    return examined(name).problems[split]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("promise", contracts.PROMISES, ids=lambda promise: promise.__name__)
def test_it_keeps_every_promise(name, promise):
    assert not list(promise(examined(name)))
