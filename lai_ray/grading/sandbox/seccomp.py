"""The system calls that a program may make, as a seccomp filter.  machine -> BPF bytes

An allow-list: every other call fails with EPERM. No allowed call starts a process, opens a socket, sends a signal,
mounts, traces, changes a mode or an owner, or shares memory. Numbers are from the kernel's unistd headers.
"""

from __future__ import annotations

import errno
import struct

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # Reading, writing and listing visible files.
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "preadv": (295, 69), "write": (1, 64),
    "writev": (20, 66), "pwrite64": (18, 68), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25),
    "fstat": (5, 80), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "open": (2, None), "openat": (257, 56), "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "getdents64": (217, 61), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "ftruncate": (77, 46), "truncate": (76, 45), "fsync": (74, 82), "fdatasync": (75, 83),
    "utimensat": (280, 88), "fadvise64": (221, 223), "umask": (95, 166),
    # Memory.
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    # Time.
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, None),
    # The process's own signals and threads.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "pause": (34, None),
    "restart_syscall": (219, 128), "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "rseq": (334, 293), "set_tid_address": (218, 96), "gettid": (186, 178), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "exit": (60, 93), "exit_group": (231, 94), "arch_prctl": (158, None),
    "membarrier": (324, 283), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # Identity and limits of the process and machine.
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160), "sysinfo": (99, 179),
    "getrlimit": (97, 163), "getrandom": (318, 278), "getcpu": (309, 168),
}  # fmt: skip
"""name -> its number on x86-64 and on aarch64; None where the machine has no such call."""

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""machine -> the column of ALLOWED, and AUDIT_ARCH_*."""
_CLONE, _CLONE3, _IOCTL, _PRLIMIT = (56, 220), (435, 435), (16, 29), (302, 261)
_CLONE_THREAD = 0x00010000
_TCGETS = 0x5401
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ARG0, _ARG1, _ARG2 = 16, 24, 32
"""Offsets of the low halves of a call's arguments in seccomp_data (little-endian machines)."""


def supported(machine: str) -> bool:
    """Whether this machine's system calls are listed."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter as an array of sock_filter. Raises KeyError for a machine that is not `supported`."""
    column, arch = _MACHINES[machine]
    code = [_op(_LOAD, 4), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    if machine == "x86_64":  # The x32 calls, which have other numbers.
        code += [_op(_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _KILL)]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, _ALLOW)]
    # Threads, but no processes. clone3 has its flags in memory, out of reach: on ENOSYS glibc falls back to clone.
    code += _when(_CLONE[column], _ARG0, _ANY_BIT, _CLONE_THREAD, errno.EPERM)
    code += [_op(_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    code += _when(_IOCTL[column], _ARG1, _EQUAL, _TCGETS, errno.ENOTTY)
    code += _read_own_limits(_PRLIMIT[column])
    return b"".join([*code, _op(_RETURN, _ERRNO | errno.EPERM)])


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _when(number: int, argument: int, test: int, value: int, refusal: int) -> list[bytes]:
    """Allow this call only where `test` is true of one argument's low half."""
    return [
        _op(_EQUAL, number, 0, 4),
        _op(_LOAD, argument),
        _op(test, value, 0, 1),
        _op(_RETURN, _ALLOW),
        _op(_RETURN, _ERRNO | refusal),
    ]


def _read_own_limits(number: int) -> list[bytes]:
    """Allow prlimit64 only of the own process and without a new limit: both halves of its third argument are zero."""
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    return [
        _op(_EQUAL, number, 0, 9),
        _op(_LOAD, _ARG0),
        _op(_EQUAL, 0, 0, 6),
        _op(_LOAD, _ARG2),
        _op(_EQUAL, 0, 0, 4),
        _op(_LOAD, _ARG2 + 4),
        _op(_EQUAL, 0, 0, 2),
        _op(_RETURN, _ALLOW),
        refuse,
        refuse,
    ]
