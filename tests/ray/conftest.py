"""One Ray for all tests of this folder: this machine, as if it had exactly two processors."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import bucket as server
from tests import submitting

ROOT = Path(__file__).parents[2]
STUDENT = ROOT / "lai_ray" / "world" / "student"


[PORT] = submitting.free_ports(1, above=9400)
"""Of the S3 server, wherever one is started: Ray's workers have the environment that Ray was started with. It is used
minutes later, so it is none that Ray gives to anybody."""


@pytest.fixture(scope="session", autouse=True)
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Ray with 2 logical CPUs; whatever the tests ask for must fit into them."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "RAY_worker_niceness": "0"}
    os.environ |= {**server.reaching(PORT), "LAI_CACHE": str(tmp_path_factory.mktemp("cache"))}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """What a test leaves on Ray goes with it: an error's traceback holds a pool of actors until it is collected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty bucket that Ray's workers reach too."""
    with server.serving(tmp_path_factory.mktemp("server") / "server.log", PORT) as environment:
        server.client(environment).create_bucket(Bucket="bucket")  # type: ignore[attr-defined]
        yield "s3://bucket"


@pytest.fixture
def logs(tmp_path: Path) -> str:
    """An empty folder for what actors say."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return str(folder)
