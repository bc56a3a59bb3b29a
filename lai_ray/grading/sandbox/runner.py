"""Runs generated programs against their tests in isolated processes.  program, tests -> verdict

    grader --exec--> fork server --fork--> program   (answers calls; holds no test)
                                 --fork--> tests     (makes the calls; holds the pipe for the verdict)

Both forks are short-lived and isolated alike. `docs/sandbox.md` lists what each isolation level contains and what it
does not. Only the standard library is imported here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from lai_ray.errors import ConfigError

LEVELS = ("namespaces", "landlock", "rlimits")
"""The isolation levels, the strongest first."""
_FORMER = {"bubblewrap": "namespaces"}
"""Levels that a job may still name as `sandbox.min_tier` -> the level that replaces them."""
CANNOT_BE_RUN = "the tests cannot be run"
"""How the note of an error begins where the tests are at fault."""
_START_SECONDS, _GRACE_SECONDS = 30.0, 20.0
"""Time for a fork server to start; and to reply after a trial's wall-clock limit."""


@dataclass(frozen=True)
class TrialLimits:
    """What one program may use. CPU time decides; wall clock and idle time end a trial without a verdict."""

    cpu: float = 3.0
    """Seconds of CPU time, all threads together."""
    wall: float = 60.0
    """Seconds from start to verdict."""
    idle: float = 10.0
    """Seconds in which neither the program nor its tests used any CPU time."""
    memory: int = 1 << 30
    """Bytes of address space."""


@dataclass(frozen=True)
class Checks:
    """What the tests' process runs. The program's process never sees any of it."""

    tests: str
    entry: str
    """The function under test; the tests call it by this name, or get it as check(candidate)."""
    setup: str = ""
    """Source that the tests need: imports, helpers. Runs in the tests' process."""
    names: tuple[str, ...] = ()
    """Other names that the tests use and the program must define, because the reference solution defines them."""
    check: bool = False
    """Whether the tests define check(candidate), which is then called."""


@dataclass(frozen=True)
class TrialResult:
    """passed, failed (by the program's fault), or error (no verdict: wall clock, set-up, tests that cannot be run)."""

    verdict: Literal["passed", "failed", "error"]
    note: str
    output: str = ""
    """The first 16 kB of the program's stdout and stderr."""
    cpu: float = 0.0
    """CPU seconds of the program."""
    level: str = ""
    """The isolation level it ran in."""


class SandboxRefusedError(ConfigError):
    """This machine offers less isolation than `sandbox.min_tier` demands."""


class ServerGoneError(Exception):
    """The fork server died or does not reply."""


def run(
    program: str, checks: Checks, *, min_tier: str = "namespaces", limits: TrialLimits | None = None
) -> TrialResult:
    """Run a program against its tests at the strongest level of this machine. May be called from several threads.

    Raises SandboxRefusedError where this machine has no level as strong as `min_tier`.
    """
    level = strongest(min_tier)
    with contextlib.suppress(ServerGoneError, OSError):
        return _attempt(level, program, checks, limits or TrialLimits())
    try:  # Again, with a new fork server: the first may have been killed between two trials.
        return _attempt(level, program, checks, limits or TrialLimits())
    except (ServerGoneError, OSError) as error:
        return TrialResult("error", f"the sandbox could not run it: {error}", level=level)


def _attempt(level: str, program: str, checks: Checks, limits: TrialLimits) -> TrialResult:
    with _pool().server(level) as server:
        return server.trial(program, checks, limits)


def strongest(min_tier: str) -> str:
    """The strongest isolation level of this machine, tested once per process.

    Raises SandboxRefusedError where that is weaker than `min_tier`, ConfigError where there is no such level.
    """
    wanted = _FORMER.get(min_tier, min_tier)
    if wanted not in LEVELS:
        raise ConfigError(f"sandbox.min_tier: no isolation level {min_tier!r}. There are: {', '.join(LEVELS)}.")
    at = LEVELS.index(wanted) + 1
    pool, acceptable, weaker = _pool(), LEVELS[:at], LEVELS[at:]
    level = pool.strongest(acceptable)
    if level:
        return level
    reasons = "; ".join(f"{level}: {pool.refused[level]}" for level in acceptable)
    raise SandboxRefusedError(
        f"generated code may not run on {socket.gethostname()}: sandbox.min_tier = {min_tier!r}, and this machine "
        f"offers less ({reasons}). Grade on another machine, allow user namespaces here, or accept a weaker level "
        f"({', '.join(weaker) or 'there is none'}); docs/sandbox.md lists what each level contains."
    )


def level_in_use() -> str | None:
    """The weakest isolation level in which this process has run anything; None if it has run nothing."""
    return weakest(_pool().used)


def weakest(levels: Iterable[str]) -> str | None:
    """The weakest of these isolation levels; None for none."""
    return max(levels, key=LEVELS.index, default=None)


class ForkServer:
    """A fork server process and the socket to it. It runs one trial at a time."""

    def __init__(self, level: str) -> None:
        """Raises OSError with the reason where this machine does not offer the level."""
        self.level = level
        self.folder = tempfile.mkdtemp(prefix="lai-sandbox-")
        self.control, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with remote:
                self.process = _start(level, remote, self.folder)
        except OSError:
            os.rmdir(self.folder)
            raise
        try:
            self.control.settimeout(_START_SECONDS)
            hello = self._receive()
        except ServerGoneError as error:
            self.close()
            raise OSError(f"its fork server did not start ({error})") from None
        if "refused" in hello:
            self.close()
            raise OSError(hello["refused"])

    def trial(self, program: str, checks: Checks, limits: TrialLimits) -> TrialResult:
        """One verdict. Raises ServerGoneError when the fork server dies or does not reply."""
        spec = json.dumps(
            {
                "setup": checks.setup, "tests": checks.tests, "entry": checks.entry,
                "names": list(checks.names), "check": checks.check,
            }
        )  # fmt: skip
        request = {"cpu": limits.cpu, "wall": limits.wall, "idle": limits.idle, "memory": limits.memory}
        files = [_in_memory(program), _in_memory(spec)]
        try:
            self.control.settimeout(limits.wall + _GRACE_SECONDS)
            try:
                socket.send_fds(self.control, [json.dumps(request).encode()], files)
            except OSError as error:
                raise ServerGoneError(str(error)) from None
        finally:
            for file in files:
                os.close(file)
        reply = self._receive()
        return TrialResult(reply["verdict"], reply["note"], reply["output"], reply["cpu"], self.level)

    def _receive(self) -> dict[str, Any]:
        try:
            data = self.control.recv(1 << 20)
        except OSError as error:
            raise ServerGoneError(str(error)) from None
        if not data:
            raise ServerGoneError(f"exit status {self.process.poll()}")
        message: dict[str, Any] = json.loads(data)
        return message

    def close(self) -> None:
        """Stop the process and everything it runs."""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class ServerPool:
    """The fork servers of this process: as many as run at once, reused from trial to trial."""

    owner: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: dict[str, list[ForkServer]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Isolation level -> why this machine does not offer it."""
    offered: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def strongest(self, acceptable: tuple[str, ...]) -> str | None:
        """The first of these isolation levels that this machine offers."""
        with self.lock:
            return next((level for level in acceptable if self._offers(level)), None)

    def _offers(self, level: str) -> bool:
        if level not in self.offered and level not in self.refused:
            try:
                server = ForkServer(level)
                self.idle.setdefault(level, []).append(server)
                failure = _self_test(server)
            except (OSError, ServerGoneError) as error:
                failure = str(error)
            if failure:
                self.refused[level] = failure
            else:
                self.offered.add(level)
        return level in self.offered

    @contextlib.contextmanager
    def server(self, level: str) -> Iterator[ForkServer]:
        """A fork server for one trial; one that fails is closed and not used again."""
        with self.lock:
            idle = self.idle.setdefault(level, [])
            server = idle.pop() if idle else None
        server = server or ForkServer(level)
        try:
            yield server
        except BaseException:
            server.close()
            raise
        self.used.add(level)
        with self.lock:
            self.idle[level].append(server)

    def close(self) -> None:
        """Stop every idle fork server."""
        with self.lock:
            servers = [server for idle in self.idle.values() for server in idle]
            self.idle.clear()
        for server in servers:
            server.close()


_the_pool: ServerPool | None = None


def _pool() -> ServerPool:
    """The pool of this process: after a fork, the fork servers of the original process must not be used."""
    global _the_pool
    if _the_pool is None or _the_pool.owner != os.getpid():
        _the_pool = ServerPool()
        atexit.register(_the_pool.close)
    return _the_pool


_SELF_TEST = """
import os, socket
def allowed(f, *a):
    try: f(*a)
    except OSError: return False
    return True
def forked():
    if os.fork() == 0: os._exit(0)
def facts(secret):
    return {"files": allowed(open, secret), "processes": allowed(forked), "network": allowed(socket.socket),
            "environment": bool(os.environ)}
"""


def _self_test(server: ForkServer) -> str:
    """Why the level does not isolate as promised, or ""; the weakest promises only an empty environment."""
    secret = os.path.join(server.folder, "secret")
    with open(secret, "w") as file:
        file.write("secret")
    os.chmod(secret, 0o644)
    promised = ["environment"] if server.level == "rlimits" else ["files", "processes", "network", "environment"]
    tests = f"got = facts({secret!r})\nassert not [k for k in {promised!r} if got[k]], [k for k in got if got[k]]"
    outcome = server.trial(_SELF_TEST, Checks(tests=tests, entry="facts"), TrialLimits())
    os.unlink(secret)
    return "" if outcome.verdict == "passed" else f"its self-test failed: {outcome.note}"


def _in_memory(text: str) -> int:
    file = os.memfd_create("lai", os.MFD_CLOEXEC)
    view = memoryview(text.encode("utf-8", "surrogatepass"))
    while view:
        view = view[os.write(file, view) :]
    return file


def _start(level: str, control: socket.socket, folder: str) -> subprocess.Popen[bytes]:
    package = os.path.abspath(__file__)
    for _ in "lai_ray", "grading", "sandbox", "runner.py":
        package = os.path.dirname(package)
    code = (
        f"import sys; sys.path.insert(0, {package!r}); from lai_ray.grading.sandbox import fork_server as p; "
        f"sys.path.remove({package!r}); p.main({level!r}, {control.fileno()}, {folder!r}, {_visible()!r})"
    )
    # Not -I: it ignores the hash seed; the order of sets would then vary, and with it a verdict now and then.
    command = [_python(), "-P", "-s", "-S", "-B", "-c", code]
    return subprocess.Popen(
        command, env={"PYTHONHASHSEED": "0"}, cwd="/", start_new_session=True, pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _python() -> str:
    # The base interpreter, not the virtual environment's: programs must not see the environment's packages.
    return str(getattr(sys, "_base_executable", sys.executable))


def _visible() -> list[str]:
    """The paths that a program may read: the standard library (first) and the libraries it loads."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    shared = os.path.join(os.path.realpath(sys.base_prefix), "lib")
    paths = [library, *(f"{shared}/{name}" for name in _shared_objects(shared))]
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/null")
    for path in (os.path.realpath(path) for path in system):
        if os.path.exists(path) and not any(path == one or path.startswith(one + "/") for one in paths):
            paths.append(path)
    return paths


def _shared_objects(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if name.startswith("libpython") and not os.path.islink(f"{folder}/{name}")]
