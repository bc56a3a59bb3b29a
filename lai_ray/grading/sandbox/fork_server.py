"""The fork server: a small Python with common modules imported, which forks the two processes of each trial.

Started by exec with an empty environment, so its memory holds nothing of the grader; isolated before the first trial.
Programs and tests pass through it as file descriptors that it never reads: what it forks inherits neither.

A request is one message on the socket: {"cpu", "wall", "idle", "memory"} and two descriptors, the program and the
tests. The reply is one message: {"verdict", "note", "output", "cpu"}.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lai_ray.grading.sandbox import linux as kernel
from lai_ray.grading.sandbox import worker as child
from lai_ray.grading.sandbox.isolation import Jail, enter, lock_down, remove, scratch_folder

CAPTURED = 16_384
"""Bytes of a program's output that are kept; the rest is read and dropped."""
IMPORTED = [
    "array",
    "bisect",
    "calendar",
    "cmath",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "struct",
    "time",
    "typing",
    "typing_extensions",
    "unicodedata",
    "dataclasses",
    "textwrap",
    "doctest",
]
_TICK = 0.05


@dataclass
class Running:
    """One forked process: its pipes, what they returned, and its exit status."""

    pid: int
    pidfd: int
    output: int
    """Pipe from its stdout and stderr."""
    result: int
    """Pipe from `_in_child`: "ready", then the verdict (of the tests' process)."""
    captured: bytearray = field(default_factory=bytearray)
    """The content of `output`."""
    reported: bytearray = field(default_factory=bytearray)
    """The content of `result`."""
    cpu: float = 0.0
    status: int | None = None

    def used(self) -> float:
        """CPU seconds so far."""
        if self.status is None:
            with contextlib.suppress(OSError):
                self.cpu = kernel.cpu_seconds(self.pid)
        return self.cpu

    def end(self) -> None:
        """Kill it and everything it started, and wait for it."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            _, self.status, usage = os.wait4(self.pid, 0)
            self.cpu = usage.ru_utime + usage.ru_stime
        for fd in (self.pidfd, self.output, self.result):
            os.close(fd)


def main(level: str, control: int, folder: str, visible: list[str]) -> None:
    """Isolate this process and serve trials until the grader closes the socket.

    The first message is {"ready": pid}, or {"refused": why} where this machine does not offer the level.
    """
    grader = socket.socket(fileno=control)
    jail = Jail(level, folder, visible)
    try:
        _import_modules()
        enter(jail)
    except OSError as error:
        grader.send(json.dumps({"refused": str(error)}).encode())
        return
    grader.send(json.dumps({"ready": os.getpid()}).encode())
    while True:
        data, fds, _, _ = socket.recv_fds(grader, 65_536, 2)
        if not data:
            return
        reply = _trial(jail, json.loads(data), fds, grader)
        grader.send(json.dumps(reply).encode())


def _import_modules() -> None:
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in list(sys.modules):
        # A program must not be able to read how it is judged.
        if module.startswith("lai_ray") and module not in (__name__, child.__name__, kernel.__name__):
            sys.modules.pop(module)
    os.environ.clear()
    sys.argv = [""]


def _trial(jail: Jail, limits: dict[str, Any], fds: list[int], grader: socket.socket) -> dict[str, Any]:
    """Fork both processes, wait for a verdict, kill both."""
    program_side, tests_side = socket.socketpair()
    scratch = scratch_folder(jail)
    running: list[Running] = []
    try:
        for run, fd, side in ((_run_program, fds[0], program_side), (_run_tests, fds[1], tests_side)):
            running.append(_fork(jail, limits, scratch, run, [fd, side.fileno()]))
            side.close()
        reason = _wait(running[0], running[1], limits, grader)
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
            remove(scratch)
    return _reply(running[0], running[1], reason, limits)


def _fork(jail: Jail, limits: dict[str, Any], scratch: str, run: Callable[..., NoReturn], fds: list[int]) -> Running:
    output, output_end = os.pipe()
    result, result_end = os.pipe()
    try:
        if jail.level == "namespaces":
            kernel.unshare(kernel.NEWPID)
        pid = os.fork()
        if not pid:
            _in_child(jail, limits, scratch, run, [*fds, result_end], output_end)
        if jail.level == "namespaces":
            kernel.enter(jail.pid_namespace, kernel.NEWPID)
    finally:
        os.close(output_end)
        os.close(result_end)
    for fd in (output, result):
        os.set_blocking(fd, False)
    return Running(pid, os.pidfd_open(pid), output, result)


def _in_child(
    jail: Jail, limits: dict[str, Any], scratch: str, run: Callable[..., NoReturn], fds: list[int], output: int
) -> NoReturn:
    """Keep three descriptors (3: what to run, 4: the other side, 5: the result pipe), drop all rights, run."""
    try:
        for at, fd in enumerate(fds):
            fds[at] = os.dup(fd) if fd < 16 else fd  # Not one of 3, 4, 5.
        while min(fds) < 6:
            fds[fds.index(min(fds))] = os.dup(min(fds))
        nothing = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2), (fds[0], 3), (fds[1], 4), (fds[2], 5)):
            os.dup2(source, target, inheritable=False)
        os.closerange(6, 1024)
        lock_down(jail, limits, scratch)
        os.write(5, b"ready\n")
        run()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(5, f"set-up: {error}".encode())
    except BaseException:
        pass
    os._exit(70)


def _run_program() -> NoReturn:
    os.close(5)
    source = child.read_all(3)
    child.ProgramSide(4).serve(source)
    os._exit(0)


def _run_tests() -> NoReturn:
    spec = json.loads(child.read_all(3))
    os.write(5, json.dumps(child.TestsSide(4).verdict(spec)).encode())
    os._exit(0)


def _wait(program: Running, tests: Running, limits: dict[str, Any], grader: socket.socket) -> str:
    """Wait until the tests have ended, then ""; or the limit reached before: "cpu", "wall", "idle" or "tests_cpu"."""
    begun = moved = time.monotonic()
    last = 0.0
    poll = select.poll()
    for fd in (program.output, program.result, tests.output, tests.result, tests.pidfd):
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
                _drain(tests, tests.result, poll)
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
    """Read what one of its pipes holds; a closed pipe is no longer polled."""
    if fd not in (process.output, process.result):
        return
    kept, most = (process.captured, CAPTURED) if fd == process.output else (process.reported, 4096)
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
    kept += data[: max(most - len(kept), 0)]


def _reply(program: Running, tests: Running, reason: str, limits: dict[str, Any]) -> dict[str, Any]:
    verdict, note = _decided(program, tests, reason, limits)
    output = bytes(program.captured).decode("utf-8", "replace")
    return {"verdict": verdict, "note": note, "output": output, "cpu": round(program.cpu, 4)}


def _decided(program: Running, tests: Running, reason: str, limits: dict[str, Any]) -> tuple[str, str]:
    """(verdict, note), by CPU time and the tests' result. What is not the program's fault is "error", not "failed"."""
    for process, whose in ((tests, "tests"), (program, "program")):
        first, _, result = bytes(process.reported).partition(b"\n")
        if first != b"ready":
            why = first.decode("utf-8", "replace")[:200]
            return "error", f"the sandbox of the {whose} could not be set up: {why or reason or 'it ended early'}"
        if process is tests and b'"error"' in result:
            break  # The tests ended before the program began.
    if reason == "cpu" or program.cpu > limits["cpu"]:
        return "failed", f"more than {limits['cpu']:g} s of CPU time"
    if reason:
        reasons = {
            "wall": f"no verdict after {limits['wall']:g} s",
            "idle": f"no CPU time used for {limits['idle']:g} s",
            "tests_cpu": "the tests used up their CPU time",
        }
        return "error", reasons[reason]
    try:
        verdict = json.loads(bytes(tests.reported).removeprefix(b"ready\n"))
        return str(verdict["verdict"]), str(verdict["note"])
    except (ValueError, KeyError, TypeError):
        return "error", "the tests ended without a verdict"
