"""Where programs run: what the warm parent enters once, and what each of its children gives up.  tier -> Place

namespaces   afresh for each child: processes, mounts, network, IPC, host name, users; Landlock and seccomp besides
bubblewrap   the same namespaces, made once by bwrap and shared by a parent's children; Landlock and seccomp
landlock     Landlock and seccomp alone
rlimits      limits alone
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
"""Bytes of a private folder, and of one file."""
NOBODY = 64_899
"""The uid and gid that root becomes."""


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


def enter(place: Place) -> None:
    """Shut this process in, for good. Raises OSError with the reason where the tier cannot be had here."""
    if place.tier == "namespaces":
        _enter_namespaces(place)
    elif place.tier == "bubblewrap":
        _inside_bubblewrap(place)
    else:
        _drop_root(place)
    if place.tier != "rlimits":
        place.filter = kernel.seccomp_program()
    if place.tier == "landlock" and not kernel.landlock_version():
        raise OSError("this kernel has no Landlock")


def lock_down(place: Place, limits: dict[str, Any], scratch: str) -> None:
    """What a child gives up before it runs a line that is not ours."""
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


def scratch_folder(place: Place) -> str:
    """An empty folder for one trial."""
    if place.tier == "namespaces":
        return "/tmp"  # mounted afresh for each
    folder = f"{place.folder}/{time.monotonic_ns()}"
    os.mkdir(folder, 0o700)
    return folder


def remove(folder: str) -> None:
    """A scratch folder with all that is in it, whatever modes its files were given."""

    def again(function: Callable[..., Any], path: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            function(path)

    shutil.rmtree(folder, onerror=again)


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
    """Root becomes nobody, as whom a program may do what anybody may and no more."""
    if os.geteuid():
        return
    if not _open_to_all(place.visible[0]):
        # A program run as root could, where no filter stops it, end every process of the machine.
        raise OSError(f"{place.visible[0]} is in a folder that only root may enter, and no program is run as root")
    os.chown(place.folder, NOBODY, NOBODY)
    _become_nobody()


def _open_to_all(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True
