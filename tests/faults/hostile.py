"""Runs the hostile programs at one isolation level and prints a JSON object {name: how it escaped}.

python -m tests.faults.hostile LEVEL [PROGRAM TO SKIP...]
Needs only the standard library; run it as any user.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lai_ray.grading.sandbox import runner
from tests.faults.hostile_programs import PROGRAMS

CHECKS = runner.Checks(
    tests=(
        "import math\n"
        "MARK = 'EXPECTED-MARK'\n"
        "def check(candidate):\n"
        "    assert all(map(lambda x: candidate(*x) == sum(x), [(2, 3), (10, 20)]))\n"
        "    assert candidate(2, 3) == 5\n"
        "    assert math.isclose(candidate(10, 20), 30.0)\n"
    ),
    entry="add",
    check=True,
)
LIMITS = runner.TrialLimits(cpu=0.4, wall=20.0, idle=2.0, memory=512 << 20)
GOOD = "def add(a, b): return a + b"


@contextmanager
def world() -> Iterator[dict[str, object]]:
    """Targets of an attack: a file, an open port, an abstract socket, an environment variable, the grader itself."""
    os.environ["LAI_SECRET"] = "secret"
    with tempfile.TemporaryDirectory(prefix="home-") as home, socket.create_server(("127.0.0.1", 0)) as tcp:
        os.chmod(home, 0o777)
        secret = Path(home, "secret")
        secret.write_text("secret")
        abstract = f"\0lai-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(abstract)
            listener.listen()
            yield {
                "secret": str(secret), "home": home, "tcp": tcp.getsockname()[1], "abstract": abstract,
                "grader": os.getpid(), "package": str(Path(runner.__file__).parents[2]),
            }  # fmt: skip


def escape(level: str, program: str) -> str:
    """How this program escaped, or ""; a failure of the program served after it counts too."""
    with runner._pool().server(level) as server:
        outcome = server.trial(program, CHECKS, LIMITS)
        following = server.trial(GOOD, CHECKS, runner.TrialLimits())
    if outcome.verdict == "passed":
        return "was judged right"
    if "ESCAPED" in outcome.output:
        return outcome.output[outcome.output.index("ESCAPED") :][:300]
    if following.verdict != "passed":
        return f"the next program was not served: {following.note}"
    if outcome.verdict == "error" and "set up" in outcome.note:
        return f"was not run: {outcome.note}"
    return ""


def main(level: str, skipped: list[str]) -> dict[str, str]:
    """name -> how it escaped, for those that did; "*" for harm to the host.

    Below "namespaces" a program may reach other processes of the machine, so this must then be one of the first
    processes of its own pid namespace. Raises SystemExit elsewhere.
    """
    if level != "namespaces" and os.getpid() > 20:
        raise SystemExit(
            "run the weaker levels under `timeout -s KILL 100 unshare --pid --fork --mount-proc --kill-child`: below "
            "landlock these programs would kill every process they may, and unshare itself ignores SIGTERM"
        )
    slowest = [0.0]
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.05):
            begun = time.monotonic()
            time.sleep(0.01)
            slowest[0] = max(slowest[0], time.monotonic() - begun)

    watcher = threading.Thread(target=tick, daemon=True)
    watcher.start()
    escaped: dict[str, str] = {}
    folders: set[str] = set()
    with world() as names, ThreadPoolExecutor(2) as pool:
        programs = {name: source.format(**names) for name, source in PROGRAMS.items() if name not in skipped}
        for name, how in zip(
            programs, pool.map(lambda source: _safely(level, source, folders), programs.values()), strict=True
        ):
            if how:
                escaped[name] = how
        left = sorted(os.listdir(str(names["home"])))
        if left != ["secret"]:
            escaped["*"] = f"the user's folder holds {left}"
    over.set()
    watcher.join()
    runner._pool().close()
    for harm in _harm(folders, slowest[0]):
        escaped["*"] = harm
    return escaped


def _safely(level: str, source: str, folders: set[str]) -> str:
    try:
        how = escape(level, source)
    except (runner.ServerGoneError, OSError) as error:
        how = f"the fork server died: {error}"
    folders |= {server.folder for idle in runner._pool().idle.values() for server in idle}
    return how


def _harm(folders: set[str], slowest: float) -> list[str]:
    deadline = time.monotonic() + 5
    while (left := _left_over(folders)) and time.monotonic() < deadline:
        time.sleep(0.1)
    harm = [f"left behind: {left}"] if left else []
    harm += [f"the grader grew to {resident} MiB"] if (resident := _peak()) > 300 else []
    return harm + ([f"the host did not respond for {slowest:.1f} s"] if slowest > 5 else [])


def _peak() -> int:
    """Peak MiB of this process; getrusage would include its parent's memory before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def _left_over(folders: set[str]) -> list[str]:
    """Folders of fork servers that still exist, and their processes (all have the fork server's command line)."""
    left = [folder for folder in folders if os.path.exists(folder)]
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                command = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            left += [f"process {entry}" for folder in folders if folder in command]
    return left


if __name__ == "__main__":
    began = time.monotonic()
    result = main(sys.argv[1], sys.argv[2:])
    print(json.dumps({"programs": len(PROGRAMS), "escaped": result, "seconds": round(time.monotonic() - began, 1)}))
