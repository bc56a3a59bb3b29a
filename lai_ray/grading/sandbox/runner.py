"""Generated code, run where it cannot hurt.  program, tests -> verdict

    grader --exec--> warm parent --fork--> program   (answers calls; holds no test)
                                 --fork--> tests     (makes the calls; holds the pipe for the verdict)

Both forks are short-lived and shut in alike. `docs/sandbox.md` tells what each tier contains and what it does not.
Nothing here imports more than the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from lai_ray.errors import ConfigError

TIERS = ("namespaces", "bubblewrap", "landlock", "rlimits")
"""The strongest first."""
CANNOT_BE_RUN = "the tests cannot be run"
"""How the note of an error begins where the tests are at fault."""
_STARTING, _GRACE = 30.0, 20.0
"""Seconds that a parent may take to start; and to answer beyond a trial's wall-clock limit."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides; wall clock and standstill end a trial without a verdict."""

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
    """What the tests' process runs. None of it is ever seen by the program's process."""

    tests: str
    entry: str
    """The function under test; the tests call it by this name, or get it as check(candidate)."""
    setup: str = ""
    """Source that the tests need: imports, helpers. Runs in the tests' process."""
    names: tuple[str, ...] = ()
    """Other names that the tests take from the program, because the reference solution defines them."""
    check: bool = False
    """Whether the tests define check(candidate), which is then called."""


@dataclass(frozen=True)
class Outcome:
    """passed, failed (the program's doing), or error (no verdict: wall clock, set-up, tests that cannot be run)."""

    verdict: Literal["passed", "failed", "error"]
    note: str
    output: str = ""
    """The first 16 kB of what was printed, by program and its stderr."""
    cpu: float = 0.0
    tier: str = ""


class SandboxRefusedError(ConfigError):
    """This machine offers less isolation than `sandbox.min_tier` demands."""


class ParentGoneError(Exception):
    """The warm parent died or does not answer."""


def run(program: str, checks: Checks, *, min_tier: str = "namespaces", limits: Limits | None = None) -> Outcome:
    """Run a program against its tests in the strongest sandbox here. May be called from several threads.

    Raises SandboxRefusedError where this machine has nothing as strong as `min_tier`.
    """
    tier = strongest(min_tier)
    with contextlib.suppress(ParentGoneError, OSError):
        return _attempt(tier, program, checks, limits or Limits())
    try:  # a parent that was killed between trials is no fault of this one
        return _attempt(tier, program, checks, limits or Limits())
    except (ParentGoneError, OSError) as error:
        return Outcome("error", f"the sandbox could not run it: {error}", tier=tier)


def _attempt(tier: str, program: str, checks: Checks, limits: Limits) -> Outcome:
    with _pool().parent(tier) as parent:
        return parent.trial(program, checks, limits)


def strongest(min_tier: str) -> str:
    """The strongest tier offered here, tried once a process. Raises SandboxRefusedError below `min_tier`."""
    if min_tier not in TIERS:
        raise ConfigError(f"sandbox.min_tier: there is no tier {min_tier!r}. There are: {', '.join(TIERS)}.")
    pool, acceptable = _pool(), TIERS[: TIERS.index(min_tier) + 1]
    found = pool.strongest(acceptable)
    if found:
        return found
    reasons = "; ".join(f"{tier}: {pool.refused[tier]}" for tier in acceptable)
    raise SandboxRefusedError(
        f"generated code may not run on {socket.gethostname()}: sandbox.min_tier = {min_tier!r}, and this machine "
        f"offers less ({reasons}). Grade on another machine, allow user namespaces here, or accept a weaker tier "
        f"({', '.join(TIERS[TIERS.index(min_tier) + 1 :]) or 'there is none'}); docs/sandbox.md tells what that means."
    )


def tier_in_use() -> str | None:
    """The weakest tier in which this process has run anything; None if it has run nothing."""
    return weakest(_pool().used)


def weakest(tiers: Iterable[str]) -> str | None:
    """The weakest of these; None of none."""
    return max(tiers, key=TIERS.index, default=None)


class Parent:
    """A warm parent process and the socket to it. One trial at a time."""

    def __init__(self, tier: str) -> None:
        """Raises OSError with the reason where this tier cannot be had."""
        self.tier = tier
        self.folder = tempfile.mkdtemp(prefix="lai-sandbox-")
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = _start(tier, theirs, self.folder)
        except OSError:
            os.rmdir(self.folder)
            raise
        finally:
            theirs.close()
        try:
            self.control.settimeout(_STARTING)
            hello = self._receive()
        except ParentGoneError as error:
            self.close()
            raise OSError(f"its parent process did not start ({error})") from None
        if "refused" in hello:
            self.close()
            raise OSError(hello["refused"])

    def trial(self, program: str, checks: Checks, limits: Limits) -> Outcome:
        """Raises ParentGoneError when the parent dies meanwhile or answers nothing."""
        spec = json.dumps(
            {
                "setup": checks.setup, "tests": checks.tests, "entry": checks.entry,
                "names": list(checks.names), "check": checks.check,
            }
        )  # fmt: skip
        request = {"cpu": limits.cpu, "wall": limits.wall, "idle": limits.idle, "memory": limits.memory}
        files = [_in_memory(program), _in_memory(spec)]
        try:
            self.control.settimeout(limits.wall + _GRACE)
            try:
                socket.send_fds(self.control, [json.dumps(request).encode()], files)
            except OSError as error:
                raise ParentGoneError(str(error)) from None
        finally:
            for file in files:
                os.close(file)
        reply = self._receive()
        return Outcome(reply["verdict"], reply["note"], reply["output"], reply["cpu"], self.tier)

    def _receive(self) -> dict[str, Any]:
        try:
            data = self.control.recv(1 << 20)
        except OSError as error:
            raise ParentGoneError(str(error)) from None
        if not data:
            raise ParentGoneError(f"exit status {self.process.poll()}")
        message: dict[str, Any] = json.loads(data)
        return message

    def close(self) -> None:
        """End it and all that it runs."""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Pool:
    """The parents of this process: as many as run at once, each kept warm."""

    owner: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: dict[str, list[Parent]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    offered: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def strongest(self, acceptable: tuple[str, ...]) -> str | None:
        """The first of these tiers that can be had."""
        with self.lock:
            return next((tier for tier in acceptable if self._can(tier)), None)

    def _can(self, tier: str) -> bool:
        if tier not in self.offered and tier not in self.refused:
            try:
                parent = Parent(tier)
                self.idle.setdefault(tier, []).append(parent)
                failing = _self_test(parent)
            except (OSError, ParentGoneError) as error:
                failing = str(error)
            if failing:
                self.refused[tier] = failing
            else:
                self.offered.add(tier)
        return tier in self.offered

    @contextlib.contextmanager
    def parent(self, tier: str) -> Iterator[Parent]:
        """A parent for one trial; one that fails is not used again."""
        with self.lock:
            waiting = self.idle.setdefault(tier, [])
            parent = waiting.pop() if waiting else None
        parent = parent or Parent(tier)
        try:
            yield parent
        except BaseException:
            parent.close()
            raise
        self.used.add(tier)
        with self.lock:
            self.idle[tier].append(parent)

    def close(self) -> None:
        """End every parent that is not at work."""
        with self.lock:
            parents = [parent for some in self.idle.values() for parent in some]
            self.idle.clear()
        for parent in parents:
            parent.close()


_the_pool: Pool | None = None


def _pool() -> Pool:
    """This process's own: after a fork the other process's parents are not ours to talk to."""
    global _the_pool
    if _the_pool is None or _the_pool.owner != os.getpid():
        _the_pool = Pool()
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


def _self_test(parent: Parent) -> str:
    """What a tier lets through that it promises to hold, or ""; the weakest promises only the bare environment."""
    secret = os.path.join(parent.folder, "secret")
    with open(secret, "w") as file:
        file.write("secret")
    os.chmod(secret, 0o644)
    promised = ["environment"] if parent.tier == "rlimits" else ["files", "processes", "network", "environment"]
    tests = f"got = facts({secret!r})\nassert not [k for k in {promised!r} if got[k]], [k for k in got if got[k]]"
    outcome = parent.trial(_SELF_TEST, Checks(tests=tests, entry="facts"), Limits())
    os.unlink(secret)
    return "" if outcome.verdict == "passed" else f"its self-test says: {outcome.note}"


def _in_memory(text: str) -> int:
    file = os.memfd_create("lai", os.MFD_CLOEXEC)
    view = memoryview(text.encode("utf-8", "surrogatepass"))
    while view:
        view = view[os.write(file, view) :]
    return file


def _start(tier: str, control: socket.socket, folder: str) -> subprocess.Popen[bytes]:
    package = os.path.abspath(__file__)
    for _ in "lai_ray", "grading", "sandbox", "runner.py":
        package = os.path.dirname(package)
    visible = _visible()
    code = (
        f"import sys; sys.path.insert(0, {package!r}); from lai_ray.grading.sandbox import fork_server as p; "
        f"sys.path.remove({package!r}); p.main({tier!r}, {control.fileno()}, {folder!r}, {visible!r})"
    )
    # Not -I: it would ignore the hash seed, and with it the order of sets, and so a verdict now and then, would vary.
    command = [_python(), "-P", "-s", "-S", "-B", "-c", code]
    if tier == "bubblewrap":
        command = [*_bubblewrap(visible, package), *command]
    return subprocess.Popen(
        command, env={"PYTHONHASHSEED": "0"}, cwd="/", start_new_session=True, pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _python() -> str:
    # The one behind a virtual environment: that one's packages are not for programs.
    return str(getattr(sys, "_base_executable", sys.executable))


def _visible() -> list[str]:
    """What a program may read: the standard library (first), the libraries it loads, nothing else."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    shared = os.path.join(os.path.realpath(sys.base_prefix), "lib")
    found = [library, *(f"{shared}/{name}" for name in _shared_objects(shared))]
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/null")
    for path in (os.path.realpath(path) for path in system):
        if os.path.exists(path) and not any(path == one or path.startswith(one + "/") for one in found):
            found.append(path)
    return found


def _shared_objects(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if name.startswith("libpython") and not os.path.islink(f"{folder}/{name}")]


def _bubblewrap(visible: list[str], package: str) -> list[str]:
    found = shutil.which("bwrap")
    if found is None:
        raise OSError("there is no bwrap on PATH")
    sandbox = os.path.dirname(os.path.abspath(__file__))
    rooms = [os.path.dirname(os.path.dirname(sandbox)), os.path.dirname(sandbox), sandbox]
    shown = [path for path in visible if not stat.S_ISCHR(os.stat(path).st_mode)]
    shown += [f"{room}/__init__.py" for room in rooms]
    modules = ("fork_server", "isolation", "worker", "protocol", "linux", "seccomp")
    shown += [f"{sandbox}/{name}.py" for name in modules]
    shown += [os.path.realpath(_python())]
    binds = [part for path in shown for part in ("--ro-bind", path, path)]
    links = [
        part
        for name in ("/lib", "/lib64", "/bin")
        if os.path.islink(name)
        for part in ("--symlink", os.readlink(name), name)
    ]
    return [
        found, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PYTHONHASHSEED", "0",
        "--cap-drop", "ALL", "--size", str(64 << 20), "--tmpfs", "/tmp", *binds, *links,
        "--dev-bind", "/dev/null", "/dev/null", "--chdir", "/tmp", "--",
    ]  # fmt: skip
