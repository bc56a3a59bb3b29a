"""Linux isolation by ctypes: namespaces, mounts, Landlock, seccomp, capabilities, limits.

Every function acts on the calling process and raises OSError with the name of the call that failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import time
from dataclasses import dataclass

from lai_ray.grading.sandbox import seccomp

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
SEALED = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWNET
"""The namespaces that are new for each program, beside its process and user namespaces."""

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_ARM = platform.machine() == "aarch64"
_SETNS, _PIVOT_ROOT, _CAPSET = (268, 41, 91) if _ARM else (308, 155, 126)
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_PR = {"PDEATHSIG": 1, "DUMPABLE": 4, "SECCOMP": 22, "CAPBSET_DROP": 24, "SECUREBITS": 28, "NO_NEW_PRIVS": 38}
_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4
_NO_ROOT_LOCKED = 0x2F
"""SECBIT_NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, each locked: uid 0 has no privileges."""

_libc = ctypes.CDLL(None, use_errno=True)
_NONE = ctypes.c_void_p(None)


@dataclass(frozen=True)
class Bounds:
    """Hard limits of one process; sizes in bytes, CPU in whole seconds."""

    cpu: int
    memory: int
    file: int
    open_files: int
    threads: int | None
    """Processes and threads of this user; None where the user's other processes would be counted too."""


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def _prctl(what: str, *arguments: int) -> None:
    longs = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(_PR[what], *longs), f"prctl {what}")


def unshare(flags: int) -> None:
    """Move to new namespaces of these kinds: unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter(namespace: int, kind: int) -> None:
    """Move to the namespace behind a file descriptor: setns(2)."""
    _syscall("setns", _SETNS, ctypes.c_int(namespace), ctypes.c_int(kind))


def die_with_parent() -> None:
    """Receive SIGKILL when the thread that forked this process ends."""
    _prctl("PDEATHSIG", 9)


def be_dumpable() -> None:
    """Own the /proc files again after a change of uid, so that the user namespace can be mapped."""
    _prctl("DUMPABLE", 1)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = _libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3])
    _check(result, f"mount {target}")


def tmpfs(target: str, size: int, files: int) -> None:
    """An empty file system in memory: `size` bytes and `files` names at most."""
    mount("tmpfs", target, "tmpfs", _NOSUID | _NODEV, f"size={size},nr_inodes={files},mode=0755")


def private_mounts() -> None:
    """Hide later mounts from other mount namespaces."""
    mount("none", "/", None, _REC | _PRIVATE)


def bind_read_only(source: str, target: str, *, device: bool = False) -> None:
    """Mount `source`, with everything mounted in it, read-only at `target`."""
    mount(source, target, None, _BIND | _REC)
    if not device:
        # struct mount_attr: flags to set, flags to clear, propagation, user namespace.
        wanted = ctypes.create_string_buffer(struct.pack("=QQQQ", _RDONLY | _NOSUID | _NODEV, 0, 0, 0))
        recursive = 0x8000
        path = target.encode()
        _syscall("mount_setattr", _MOUNT_SETATTR, -100, path, recursive, wanted, ctypes.c_size_t(32))


def read_only(target: str) -> None:
    """Remount the file system at `target` read-only."""
    mount("none", target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def change_root(folder: str) -> None:
    """Make `folder`, a mount point, the root; the old root becomes unreachable."""
    os.chdir(folder)
    _syscall("pivot_root", _PIVOT_ROOT, b".", b".")
    _check(_libc.umount2(b".", _DETACH), "umount old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Drop all capabilities for good, also for uid 0."""
    for capability in range(64):
        if _libc.prctl(_PR["CAPBSET_DROP"], ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_AMBIENT_CLEAR_ALL), 0, 0, 0)
    _libc.prctl(_PR["SECUREBITS"], ctypes.c_ulong(_NO_ROOT_LOCKED), 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=II", 0x20080522, 0))
    nothing = ctypes.create_string_buffer(bytes(24))
    _syscall("capset", _CAPSET, header, nothing)


def no_new_privileges() -> None:
    """No exec gains privileges any more; also required for a seccomp filter without root."""
    _prctl("NO_NEW_PRIVS", 1)


def limit(bounds: Bounds) -> None:
    """Set hard limits, which the process cannot raise again."""
    wanted = {
        resource.RLIMIT_CPU: bounds.cpu,
        resource.RLIMIT_AS: bounds.memory,
        resource.RLIMIT_FSIZE: bounds.file,
        resource.RLIMIT_NOFILE: bounds.open_files,
        resource.RLIMIT_NPROC: bounds.threads,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    for which, value in wanted.items():
        if value is not None:
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))


def landlock_version() -> int:
    """The Landlock ABI of this kernel; 0 where there is none."""
    return max(int(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), _NONE, ctypes.c_size_t(0), ctypes.c_uint(1))), 0)


def landlock(readable: list[str], writable: list[str]) -> None:
    """Restrict this process for good: it opens only these trees, uses no TCP port and signals no outside process."""
    version = landlock_version()
    if not version:
        raise OSError("Landlock: this kernel has none")
    files = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | ((1 << 15) if version >= 5 else 0)
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", files, network, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    made = ctypes.create_string_buffer(attributes, len(attributes))
    size = ctypes.c_size_t(len(attributes))
    rules = _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, made, size, ctypes.c_uint(0))
    for path in readable:
        _landlock_allow(rules, path, 0b1101)  # execute (shared libraries), read a file, read a folder
    for path in writable:
        _landlock_allow(rules, path, files & ~(1 << 15))
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0))
    os.close(rules)


def _landlock_allow(rules: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        of_a_file = 0b111 | 1 << 14  # execute, write, read, truncate
        rights = rights if os.path.isdir(path) else rights & of_a_file
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, folder), 12)
        _syscall("landlock_add_rule", _LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(folder)


def filter_calls(program: bytes) -> None:
    """Install a seccomp filter, irreversibly."""

    class Fprog(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = Fprog(len(program) // 8, ctypes.cast(buffer, ctypes.c_char_p))
    _check(_libc.prctl(_PR["SECCOMP"], ctypes.c_ulong(2), ctypes.byref(fprog), 0, 0), "seccomp")


def seccomp_program() -> bytes:
    """The filter for this machine. Raises OSError where its system calls are not listed."""
    machine = platform.machine()
    if not seccomp.supported(machine):
        raise OSError(f"seccomp: the system calls of {machine} are not listed")
    return seccomp.program(machine)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its threads have used. Raises OSError when it has ended."""
    # The id of a process's CPU clock is computed from its pid: clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)
