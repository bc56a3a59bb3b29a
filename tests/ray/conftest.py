"""One Ray for all tests of this folder: this machine, as if it had exactly two processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STUDENT = ROOT / "lai_ray" / "world" / "student"


@pytest.fixture(scope="session", autouse=True)
def ray_session() -> Iterator[Any]:
    """A local Ray with 2 logical CPUs; whatever the tests ask for must fit into them."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "RAY_worker_niceness": "0"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield ray
    ray.shutdown()


@pytest.fixture
def logs(tmp_path: Path) -> str:
    """An empty folder for what actors say."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return str(folder)
