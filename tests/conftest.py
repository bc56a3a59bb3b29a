"""What several test folders share: the built-in job as a child process, a tutor of its own, and an honest last word."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lai_ray.benchmarks import _sandbox
from tests import submitting

REPO = Path(__file__).parent.parent
IN_FLIGHT = 8
"""Calls at once of a run that is to be killed: so many may be paid for in vain each time."""
SMALL = [
    "evaluate.max_train_problems=300", "evaluate.max_test_problems=150", "curate.samples_per_dataset=120",
]  # fmt: skip
"""The quickstart, cut to what a test can wait for; still real vLLM, Ray, FAISS and DeepSpeed."""


def lai(*arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """`lai` in a process of its own, from the repository's folder."""
    script = ["-m", "tests.faults.mortal"] if "MORTAL" in environment else ["-m", "lai_ray"]
    return subprocess.run(
        [sys.executable, *script, *arguments],
        cwd=REPO, env=os.environ | environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def records(path: Path) -> list[Any]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass
class Tutor:
    """A tutor process and its request log."""

    base_url: str
    log: Path

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked, oldest first."""
        return records(self.log) if self.log.exists() else []


@contextmanager
def tutoring(log: Path, port: int | None = None) -> Iterator[Tutor]:
    """A tutor that outlives the drivers that ask it, slow enough to be interrupted."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "lai_ray.world.tutor", "--port", str(port), "--log", str(log), "--latency", "0.05"]
    process = subprocess.Popen(command, cwd=REPO)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Tutor(f"http://127.0.0.1:{port}/v1", log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tutor(tmp_path: Path) -> Iterator[Tutor]:
    """A tutor of this test's own."""
    with tutoring(tmp_path / "tutor.jsonl") as found:
        yield found


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The main job, whole, as `make quickstart` runs it: the run's folder, and what was printed."""
    storage = tmp_path_factory.mktemp("quickstart")
    done = lai("run", "jobs/quickstart.toml", f"storage={storage}", timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return storage / "quickstart", done.stdout


@pytest.fixture
def sandbox() -> None:
    """Skips where this machine does not lend what the sandbox needs."""
    try:
        _sandbox.strongest("namespaces")
    except _sandbox.SandboxRefusedError as refused:
        pytest.skip(str(refused))


@dataclass
class Submitted:
    """One iteration of the main job, cut small, as a submitted job that nothing disturbed."""

    folder: Path
    printed: str
    requests: list[dict[str, Any]]
    """What it asked its tutor."""
    refused: subprocess.CompletedProcess[str]
    """Another job, whose storage is a relative path."""


def small_job(storage: Path, tutor: Tutor, name: str, in_flight: int) -> list[str]:
    """Arguments of `lai run` for one iteration of LEC that ends within a minute or two."""
    return [
        "jobs/quickstart.toml", f"storage={storage}", f"name={name}", f"instructor.base_url={tutor.base_url}",
        "iterations=1", "schedule.strategy=lec", "cluster.target_replicas=1", f"limits.max_in_flight={in_flight}",
        *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Run once for all tests that compare with it."""
    folder = tmp_path_factory.mktemp("submitted")
    with tutoring(folder / "tutor.jsonl") as asked, submitting.head(folder) as (address, environment):
        done = submitting.submit(address, environment, *small_job(folder, asked, "whole", IN_FLIGHT))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        refused = submitting.submit(address, environment, "jobs/quickstart.toml", "storage=runs")
        return Submitted(folder / "whole", done.stdout, asked.requests(), refused)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not tested, and why, after everything else."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped, and why")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if not skipped:
        terminalreporter.line("nothing")
