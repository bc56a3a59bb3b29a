"""What several test folders share: the built-in job as a child process, a tutor of its own, and an honest last word."""

from __future__ import annotations

import json
import os
import signal
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

from lai_ray.grading.sandbox import runner
from tests import submitting

REPO = Path(__file__).parent.parent
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job begins so, and would hand it on to every child that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
MAIN_JOB = ("jobs/quickstart.toml", "evaluate.max_test_problems=900")
"""All that is learned, and of the tests, which are answered three times, enough to see what was learned."""
IN_FLIGHT = 8
"""Calls at once of a run that is to be killed: so many may be paid for in vain each time."""


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
def tutoring(log: Path, port: int | None = None, *, host: str = "127.0.0.1", latency: float = 0.05) -> Iterator[Tutor]:
    """A tutor that outlives the drivers that ask it, slow enough to be interrupted. host: of this machine."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "lai_ray.world.tutor", "--host", host, "--port", str(port), "--log", str(log)]
    process = subprocess.Popen([*command, "--latency", str(latency)], cwd=REPO)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    break
            time.sleep(0.1)
        yield Tutor(f"http://{host}:{port}/v1", log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tutor(tmp_path: Path) -> Iterator[Tutor]:
    """A tutor of this test's own."""
    with tutoring(tmp_path / "tutor.jsonl") as found:
        yield found


@pytest.fixture
def sandbox() -> None:
    """Skips where this machine does not lend what the sandbox needs."""
    try:
        runner.strongest("namespaces")
    except runner.SandboxRefusedError as refused:
        pytest.skip(str(refused))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one (run as root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@dataclass
class Submitted:
    """The main job, whole, run by `ray job submit`."""

    folder: Path
    printed: str
    refused: subprocess.CompletedProcess[str]
    """Another job, whose storage is a relative path."""


@pytest.fixture(scope="session")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Run once for all tests that look at it or compare with it; nothing disturbs it."""
    storage = tmp_path_factory.mktemp("submitted")
    with submitting.head(storage) as (address, environment):
        done = submitting.submit(address, environment, *MAIN_JOB, f"storage={storage}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        refused = submitting.submit(address, environment, "jobs/quickstart.toml", "storage=runs")
        return Submitted(storage / "quickstart", done.stdout, refused)


@pytest.fixture(scope="session")
def quickstart(submitted: Submitted) -> tuple[Path, str]:
    """The main job's folder, and what was printed."""
    return submitted.folder, submitted.printed


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not tested, and why, after everything else."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped, and why")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if not skipped:
        terminalreporter.line("nothing")
