"""The isolation of programs: what the fork server enters once, and what each of its children gives up.  level -> Jail

namespaces   new for each child: processes, mounts, network, IPC, host name, users; also Landlock and seccomp
landlock     Landlock and seccomp only (for containers that forbid user namespaces)
rlimits      limits only
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lai_ray.grading.sandbox import linux as kernel

SCRATCH = 16 << 20
"""Bytes of a scratch folder, and of one file."""
SANDBOX_UID = 64_899
"""The uid and gid that root changes to."""


@dataclass
class Jail:
    """The isolation that a fork server gives its programs."""

    level: str
    """"namespaces", "landlock" or "rlimits"."""
    folder: str
    """An empty folder of the grader's: mount point of the new root, or parent of the scratch folders."""
    visible: list[str]
    """Folders that a program may read: the standard library (first) and the system's libraries."""
    filter: bytes = b""
    """The seccomp filter."""
    pid_namespace: int = -1
    """File descriptor of the fork server's own pid namespace, which it returns to after each fork."""


def enter(jail: Jail) -> None:
    """Isolate this process, irreversibly. Raises OSError with the reason where the level is not available."""
    if jail.level == "namespaces":
        _enter_namespaces(jail)
    else:
        _drop_root(jail)
    if jail.level != "rlimits":
        jail.filter = kernel.seccomp_program()
    if jail.level == "landlock" and not kernel.landlock_version():
        raise OSError("this kernel has no Landlock")


def lock_down(jail: Jail, limits: dict[str, Any], scratch: str) -> None:
    """Drop every right a program must not have; a child calls it before it runs any generated code."""
    os.setsid()
    if jail.level == "namespaces":
        kernel.unshare(kernel.SEALED)
        kernel.tmpfs(scratch, SCRATCH, 1024)
        os.chdir(scratch)
        kernel.unshare(kernel.NEWUSER)
    else:
        kernel.die_with_parent()
        os.chdir(scratch)
    if jail.level != "rlimits" and kernel.landlock_version():
        kernel.no_new_privileges()
        kernel.landlock(jail.visible, [scratch, "/dev/null"])
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    kernel.limit(
        kernel.Bounds(
            cpu=int(limits["cpu"]) + 2,
            memory=limits["memory"],
            file=SCRATCH,
            open_files=64,
            # Outside its own user namespace, the user's other processes would be counted too.
            threads=64 if jail.level == "namespaces" else None,
        )
    )
    if jail.filter:
        kernel.filter_calls(jail.filter)


def scratch_folder(jail: Jail) -> str:
    """The path of an empty folder for one trial."""
    if jail.level == "namespaces":
        return "/tmp"  # A new mount in each child.
    folder = f"{jail.folder}/{time.monotonic_ns()}"
    os.mkdir(folder, 0o700)
    return folder


def remove(folder: str) -> None:
    """Delete a scratch folder and its content, whatever modes its files have."""

    def retry(function: Callable[..., Any], path: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            function(path)

    shutil.rmtree(folder, onerror=retry)


def _enter_namespaces(jail: Jail) -> None:
    """A new root that holds only libraries; pid 1 of a new process namespace; an unprivileged uid."""
    proc = os.open("/proc", os.O_PATH)
    if os.geteuid() == 0:
        # Built as root, because only root may read a Python in a home folder; entered as an unprivileged user.
        kernel.unshare(kernel.NEWNS)
        kernel.private_mounts()
        _new_root(jail)
        _drop_user()
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID)
        _map_ids(proc, SANDBOX_UID, SANDBOX_UID)
    else:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID)
        _map_ids(proc, uid, gid)
        kernel.private_mounts()
        _new_root(jail)
    _continue_in_child()
    jail.pid_namespace = os.open("self/ns/pid", os.O_RDONLY, dir_fd=proc)
    os.close(proc)


def _drop_user() -> None:
    os.setgroups([])
    os.setresgid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
    os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
    kernel.be_dumpable()


def _map_ids(proc: int, uid: int, gid: int) -> None:
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(file, line.encode())
        os.close(file)


def _new_root(jail: Jail) -> None:
    kernel.tmpfs(jail.folder, 1 << 20, 4096)
    for path in jail.visible:
        inside = jail.folder + path
        if os.path.isdir(path):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.bind_read_only(path, inside, device=stat.S_ISCHR(os.stat(path).st_mode))
        for packages in ("site-packages", "dist-packages"):
            if os.path.isdir(f"{inside}/{packages}"):
                kernel.tmpfs(f"{inside}/{packages}", 4096, 2)
    os.makedirs(jail.folder + "/tmp")
    kernel.read_only(jail.folder)
    kernel.change_root(jail.folder)


def _continue_in_child() -> None:
    """Continue as the first process of the new namespace; the original process waits for it and exits with it."""
    pid = os.fork()
    if pid:
        os.closerange(3, 1024)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _drop_root(jail: Jail) -> None:
    """Change from root to an unprivileged user."""
    if os.geteuid():
        return
    if not _open_to_all(jail.visible[0]):
        # A program run as root could, where no filter stops it, kill every process of the machine.
        raise OSError(f"{jail.visible[0]} is in a folder that only root may enter, and no program is run as root")
    os.chown(jail.folder, SANDBOX_UID, SANDBOX_UID)
    _drop_user()


def _open_to_all(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True
