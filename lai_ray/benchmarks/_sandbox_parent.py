"""The warm parent: a small Python with the usual imports done, from which each trial's two processes are forked.

Started by exec with an empty environment, so nothing of the grader is in its memory; shut in before the first trial. It
passes programs and tests on as file descriptors and never reads them: what it forks inherits neither.

A request is one message on the socket: {"cpu", "wall", "idle", "memory", "scratch"} and two descriptors, the program
and the tests. The reply is one message: {"verdict", "note", "output", "cpu"}.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lai_ray.benchmarks import _sandbox_child as child
from lai_ray.benchmarks import _sandbox_kernel as kernel

CAPTURED = 16_384
"""Bytes of what a program prints that are kept; the rest is read and thrown away."""
SCRATCH = 16 << 20
"""Bytes of its private folder, and of one file."""
NOBODY = 64_899
"""The uid and gid that root becomes."""
USUAL = (
    "array bisect calendar cmath collections copy datetime decimal enum fractions functools heapq itertools json math "
    "operator random re statistics string struct time typing typing_extensions unicodedata dataclasses textwrap doctest"
).split()
_TICK = 0.05


@dataclass
class Place:
    """Where the programs run."""

    tier: str
    folder: str
    """An empty folder of the grader's: mount point of the new root, or where private folders are made."""
    visible: list[str]
    """Folders that a program may read: Python's own and the system's libraries."""
    filter: bytes = b""
    processes: int = -1
    """This process's own pid namespace, to come back to after each fork."""


@dataclass
class Running:
    """One forked process: where it writes, and how it ended."""

    pid: int
    pidfd: int
    output: int
    word: int
    captured: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    cpu: float = 0.0
    status: int | None = None

    def used(self) -> float:
        """CPU seconds so far."""
        if self.status is None:
            with contextlib.suppress(OSError):
                self.cpu = kernel.cpu_seconds(self.pid)
        return self.cpu

    def end(self) -> None:
        """Kill it and all that it started, and wait until they are gone."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            _, self.status, usage = os.wait4(self.pid, 0)
            self.cpu = usage.ru_utime + usage.ru_stime
        for fd in (self.pidfd, self.output, self.word):
            os.close(fd)


def main(tier: str, control: int, folder: str, visible: list[str]) -> None:
    """Shut this process in and serve trials until the grader hangs up. What went wrong is the first message."""
    grader = socket.socket(fileno=control)
    place = Place(tier, folder, visible)
    try:
        _warm_up()
        {"namespaces": _enter_namespaces, "bubblewrap": _inside_bubblewrap, "landlock": _drop_root, "rlimits": _drop_root}[
            tier
        ](place)
        if tier != "rlimits":
            place.filter = kernel.seccomp_program()
        if tier == "landlock" and not kernel.landlock_version():
            raise OSError("this kernel has no Landlock")
    except OSError as error:
        grader.send(json.dumps({"refused": str(error)}).encode())
        return
    grader.send(json.dumps({"ready": os.getpid()}).encode())
    while True:
        data, fds, _, _ = socket.recv_fds(grader, 65_536, 2)
        if not data:
            return
        reply = _trial(place, json.loads(data), fds, grader)
        grader.send(json.dumps(reply).encode())


def _warm_up() -> None:
    for name in USUAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in list(sys.modules):
        # What the program has no use for and would tell it how it is judged.
        if module.startswith("lai_ray") and module not in (__name__, child.__name__, kernel.__name__):
            sys.modules.pop(module)
    os.environ.clear()
    sys.argv = [""]


# --- shutting the parent in, once


def _enter_namespaces(place: Place) -> None:
    """A root of our own with nothing but libraries in it; pid 1 of its process namespace; nobody's uid."""
    proc = os.open("/proc", os.O_PATH)
    if os.geteuid() == 0:
        # Built by root, who alone may see a Python in a home folder; entered as nobody.
        kernel.unshare(kernel.NEWNS)
        kernel.private_mounts()
        _new_root(place)
        _become_nobody()
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID)
        _map_ids(proc, NOBODY, NOBODY)
    else:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID)
        _map_ids(proc, uid, gid)
        kernel.private_mounts()
        _new_root(place)
    _continue_in_child()
    place.processes = os.open("self/ns/pid", os.O_RDONLY, dir_fd=proc)
    os.close(proc)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.be_dumpable()


def _map_ids(proc: int, uid: int, gid: int) -> None:
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(file, line.encode())
        os.close(file)


def _new_root(place: Place) -> None:
    kernel.tmpfs(place.folder, 1 << 20, 4096)
    for path in place.visible:
        inside = place.folder + path
        if os.path.isdir(path):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.bind_read_only(path, inside, device=stat.S_ISCHR(os.stat(path).st_mode))
        for packages in ("site-packages", "dist-packages"):
            if os.path.isdir(f"{inside}/{packages}"):
                kernel.tmpfs(f"{inside}/{packages}", 4096, 2)
    os.makedirs(place.folder + "/tmp")
    kernel.read_only(place.folder)
    kernel.change_root(place.folder)


def _continue_in_child() -> None:
    """Go on as the first process of the new namespace; this one waits for it and ends with it."""
    pid = os.fork()
    if pid:
        os.closerange(3, 1024)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _inside_bubblewrap(place: Place) -> None:
    """The grader started this process inside bwrap: nothing is left to do but to see that it did."""
    if os.path.exists(place.folder):
        raise OSError("bwrap shows the grader's files")
    place.folder = "/tmp"


def _drop_root(place: Place) -> None:
    """Root becomes nobody where Python's files are open to all; else it stays, and each child drops every capability."""
    if os.geteuid() == 0 and _open_to_all(place.visible[0]):
        os.chown(place.folder, NOBODY, NOBODY)
        _become_nobody()


def _open_to_all(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


# --- one trial


def _trial(place: Place, limits: dict[str, Any], fds: list[int], grader: socket.socket) -> dict[str, Any]:
    """Fork both processes, wait for a verdict, end both."""
    program_side, tests_side = socket.socketpair()
    scratch = _scratch(place)
    running: list[Running] = []
    try:
        for run, fd, side in ((_run_program, fds[0], program_side), (_run_tests, fds[1], tests_side)):
            running.append(_fork(place, limits, scratch, run, [fd, side.fileno()]))
            side.close()
        reason = _watch(*running, limits, grader)
    except OSError as error:
        return {"verdict": "error", "note": f"the sandbox could not be set up: {error}", "output": "", "cpu": 0.0}
    finally:
        for one in (program_side, tests_side):
            one.close()
        for fd in fds:
            os.close(fd)
        for process in running:
            process.end()
        if scratch != "/tmp":
            _remove(scratch)
    return _reply(*running, reason, limits)


def _scratch(place: Place) -> str:
    if place.tier == "namespaces":
        return "/tmp"  # mounted afresh for each
    folder = f"{place.folder}/{time.monotonic_ns()}"
    os.mkdir(folder, 0o700)
    return folder


def _remove(folder: str) -> None:
    def again(function: Callable[..., Any], path: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            function(path)

    shutil.rmtree(folder, onerror=again)


def _fork(
    place: Place, limits: dict[str, Any], scratch: str, run: Callable[..., NoReturn], fds: list[int]
) -> Running:
    output, output_end = os.pipe()
    word, word_end = os.pipe()
    try:
        if place.tier == "namespaces":
            kernel.unshare(kernel.NEWPID)
        pid = os.fork()
        if not pid:
            _in_child(place, limits, scratch, run, [*fds, word_end], output_end)
        if place.tier == "namespaces":
            kernel.enter(place.processes, kernel.NEWPID)
    finally:
        os.close(output_end)
        os.close(word_end)
    for fd in (output, word):
        os.set_blocking(fd, False)
    return Running(pid, os.pidfd_open(pid), output, word)


def _in_child(
    place: Place, limits: dict[str, Any], scratch: str, run: Callable[..., NoReturn], fds: list[int], output: int
) -> NoReturn:
    """Keep three descriptors (3: what to run, 4: the other side, 5: the word to the parent), lock down, run."""
    try:
        for at, fd in enumerate(fds):
            fds[at] = os.dup(fd) if fd < 16 else fd  # out of the way of 3, 4, 5
        while min(fds) < 6:
            fds[fds.index(min(fds))] = os.dup(min(fds))
        nothing = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2), (fds[0], 3), (fds[1], 4), (fds[2], 5)):
            os.dup2(source, target, inheritable=False)
        os.closerange(6, 1024)
        _lock_down(place, limits, scratch)
        os.write(5, b"ready\n")
        run()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(5, f"set-up: {error}".encode())
    except BaseException:
        pass
    os._exit(70)


def _lock_down(place: Place, limits: dict[str, Any], scratch: str) -> None:
    os.setsid()
    if place.tier == "namespaces":
        kernel.unshare(kernel.SEALED)
        kernel.tmpfs(scratch, SCRATCH, 1024)
        os.chdir(scratch)
        kernel.unshare(kernel.NEWUSER)
    else:
        kernel.die_with_parent()
        os.chdir(scratch)
    if place.tier != "rlimits" and kernel.landlock_version():
        kernel.no_new_privileges()
        kernel.landlock(place.visible, [scratch, "/dev/null"])
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    kernel.limit(
        kernel.Bounds(
            cpu=int(limits["cpu"]) + 2,
            memory=limits["memory"],
            file=SCRATCH,
            open_files=64,
            # Outside a user namespace of its own the user's other processes would count.
            threads=64 if place.tier == "namespaces" else None,
        )
    )
    if place.filter:
        kernel.filter_calls(place.filter)


def _run_program() -> NoReturn:
    os.close(5)
    source = child.read_all(3)
    child.Program(4).serve(source)
    os._exit(0)


def _run_tests() -> NoReturn:
    spec = json.loads(child.read_all(3))
    said = child.Tests(4).verdict(spec)
    os.write(5, json.dumps(said).encode())
    os._exit(0)


def _watch(program: Running, tests: Running, limits: dict[str, Any], grader: socket.socket) -> str:
    """Until the tests have ended, or a limit: "", "cpu", "wall", "idle" or "tests_cpu"."""
    begun = moved = time.monotonic()
    last = 0.0
    poll = select.poll()
    for fd in (program.output, program.word, tests.output, tests.word, tests.pidfd):
        poll.register(fd, select.POLLIN)
    poll.register(grader, 0)
    wait = 0.0
    while True:
        wait = min(wait + 0.005, _TICK)
        for fd, event in poll.poll(wait * 1000):
            if fd == grader.fileno() and event & (select.POLLHUP | select.POLLERR):
                os._exit(0)
            for process in (program, tests):
                _drain(process, fd, poll)
            if fd == tests.pidfd:
                _drain(tests, tests.word, poll)
                return ""
        now, used = time.monotonic(), program.used() + tests.used()
        if program.cpu > limits["cpu"]:
            return "cpu"
        if tests.cpu > limits["cpu"] + 2:
            return "tests_cpu"
        if used > last + 0.0005:
            last, moved = used, now
        if now - moved > limits["idle"]:
            return "idle"
        if now - begun > limits["wall"]:
            return "wall"


def _drain(process: Running, fd: int, poll: select.poll) -> None:
    """Read what has come on one of its pipes; a pipe that is closed is watched no more."""
    if fd not in (process.output, process.word):
        return
    kept, room = (process.captured, CAPTURED) if fd == process.output else (process.said, 4096)
    try:
        data = os.read(fd, 65_536)
    except BlockingIOError:
        return
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        data = b""
    if not data:
        with contextlib.suppress(KeyError):
            poll.unregister(fd)
    kept += data[: max(room - len(kept), 0)]


def _reply(program: Running, tests: Running, reason: str, limits: dict[str, Any]) -> dict[str, Any]:
    verdict, note = _decided(program, tests, reason, limits)
    output = bytes(program.captured).decode("utf-8", "replace")
    return {"verdict": verdict, "note": note, "output": output, "cpu": round(program.cpu, 4)}


def _decided(program: Running, tests: Running, reason: str, limits: dict[str, Any]) -> tuple[str, str]:
    """CPU time and the tests' word decide; whatever is not the program's doing is an error, never "wrong"."""
    for process, whose in ((tests, "tests"), (program, "program")):
        begun, _, word = bytes(process.said).partition(b"\n")
        if begun != b"ready":
            why = begun.decode("utf-8", "replace")[:200]
            return "error", f"the sandbox of the {whose} could not be set up: {why or reason or 'it ended early'}"
        if process is tests and b'"error"' in word:
            break  # the tests gave up before the program began
    if reason == "cpu" or program.cpu > limits["cpu"]:
        return "failed", f"more than {limits['cpu']:g} s of CPU time"
    if reason:
        why = {
            "wall": f"no verdict after {limits['wall']:g} s",
            "idle": f"nothing moved for {limits['idle']:g} s",
            "tests_cpu": "the tests used up their CPU time",
        }
        return "error", why[reason]
    try:
        said = json.loads(bytes(tests.said).removeprefix(b"ready\n"))
        return str(said["verdict"]), str(said["note"])
    except (ValueError, KeyError, TypeError):
        return "error", "the tests ended without a verdict"

