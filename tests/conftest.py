"""What several test folders share: the built-in job as a child process, a tutor of its own, and an honest last word."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
IN_FLIGHT = 8
"""Concurrent calls of a run that is killed: at most so many, and as many unwritten replies, are paid for in vain."""
MAIN_JOB = (
    "jobs/quickstart.toml", "evaluate.max_train_problems=1000", "evaluate.max_test_problems=600",
    "curate.samples_per_dataset=600", "train.epochs=2", f"limits.max_in_flight={IN_FLIGHT}",
)  # fmt: skip
"""Enough problems to measure what was learned; less of them, and half the epochs, for time."""


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


def recorded(folder: Path) -> set[str]:
    """Hashes of the replies in closed segments."""
    texts = [row["completion"]["text"] for file in sorted(folder.glob("*.jsonl")) for row in records(file)]
    return {hashlib.sha256(text.encode()).hexdigest() for text in texts}


@dataclass
class Submitted:
    """The main job, submitted twice: its driver was killed in the middle of instruct, and the second job resumed it."""

    job: tuple[str, ...]
    """Arguments of `lai run`."""
    folder: Path
    printed: str
    killed: subprocess.CompletedProcess[str]
    kept: set[str]
    """Hashes of the replies that were recorded at the kill."""
    asked_before: list[dict[str, Any]]
    """The tutor's requests up to the kill."""
    asked_after: list[dict[str, Any]]
    refused: subprocess.CompletedProcess[str]
    """Another job, whose storage is a relative path."""


@pytest.fixture(scope="session")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Run once for all tests that look at it."""
    storage = tmp_path_factory.mktemp("submitted")
    with tutoring(storage / "tutor.jsonl") as tutor, submitting.head(storage) as (address, environment):
        job = (*MAIN_JOB, f"storage={storage}", f"instructor.base_url={tutor.base_url}")
        answers = storage / "quickstart/iteration_0/instruct/answers"
        with ThreadPoolExecutor(1) as background:
            first = background.submit(submitting.submit, address, environment, *job)
            while not (first.done() or recorded(answers)):
                time.sleep(0.1)
            submitting.kill_driver(storage)
            killed = first.result()
        kept = recorded(answers)
        before = len(tutor.requests())
        done = submitting.submit(address, environment, *job)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        refused = submitting.submit(address, environment, "jobs/quickstart.toml", "storage=runs")
        asked = tutor.requests()
        return Submitted(
            job, storage / "quickstart", done.stdout, killed, kept, asked[:before], asked[before:], refused
        )


@pytest.fixture(scope="session")
def quickstart(submitted: Submitted) -> tuple[Path, str]:
    """The main job's folder, and what was printed."""
    return submitted.folder, submitted.printed


DURATIONS = REPO / ".test_durations.tsv"
"""Seconds and name of every test that ran here, the longest first; of one that ran again, the last seconds."""


def keep_durations(seconds: dict[str, float], path: Path = DURATIONS) -> None:
    """Add what was measured to the file. seconds: by test, set-up and clean-up included."""
    rows = (line.split("\t", 1) for line in path.read_text().splitlines()) if path.exists() else ()
    known = {name: float(took) for took, name in rows} | seconds
    longest_first = sorted(known.items(), key=lambda row: (-row[1], row[0]))
    path.write_text("".join(f"{took:.2f}\t{name}\n" for name, took in longest_first))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report what was not tested, and why, after everything else; keep the durations."""
    seconds: dict[str, float] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if hasattr(report, "duration"):
            seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    keep_durations(seconds)
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped, and why")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if not skipped:
        terminalreporter.line("nothing")
