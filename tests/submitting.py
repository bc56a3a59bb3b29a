"""A Ray head for tests, and jobs submitted to it as a user does."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REPO = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def free_ports(count: int, above: int = 6400) -> list[int]:
    """Ports below those that Ray's workers take, and none that pytest's other workers look at."""
    found = []
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(above + mine, 9900, 17):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            break
    return found


def folder_of_head() -> Path:
    """Where this process's head keeps what it logs and unpacks."""
    return Path("/tmp") / f"lai-head-{os.getpid()}"  # a socket's path may have 107 characters at most


@contextmanager
def head(logs: Path, *options: str, **variables: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address of a head with two logical CPUs and token authentication, and the environment for it.

    options: more of `ray start`'s.  variables: of its environment alone, as a user sets them there.
    """
    port, dashboard, client, agent = free_ports(4)
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    folder = folder_of_head()
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-cpus", "2", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--temp-dir={folder}", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}",  # jobs start through it, and another Ray here may hold the usual one
        *options,
    ]  # fmt: skip
    log = (logs / "ray.log").open("w")
    process = subprocess.Popen(
        command, env=environment | variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        wait_for(dashboard, process)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        end(process)
        log.close()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a head and all that it started, of which some lead groups of their own."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(1)
    _, left = psutil.wait_procs(started, timeout=0.5)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=5)
    if process.poll() is None:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the head's dashboard did not come up")


def submit(address: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`lai run` with these arguments as a submitted job, to its end."""
    command = [
        BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".",
        "--runtime-env", "jobs/runtime_env.yaml", "--",
        "python", "-m", "lai_ray", "run", *arguments,
    ]  # fmt: skip
    for _ in range(30):
        done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900)
        # The dashboard answers a few seconds before it can start a job.
        if not re.search("No available agent|RPC error", done.stderr):
            break
        time.sleep(2)
    return done


def kill_driver(storage: Path) -> None:
    """SIGKILL for the driver of a submitted run."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "lai_ray", "run"] and f"storage={storage}" in words:
            process.kill()
