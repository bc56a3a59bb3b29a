"""The temporary folder of Ray on this machine: usable, and short enough for its sockets.  TMPDIR, RAY_TMPDIR -> both

The path of a socket has at most 107 bytes, of which Ray needs 68 below its folder. Slurm's job folders are longer: they
are reached through a short link then, so that Ray's files are still where the user wants them.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from lai_ray.errors import ConfigError

LONGEST = 107 - len("/ray/session_2026-11-30_22-51-14_123456_1234567/sockets/plasma_store")
"""Bytes in the path of a temporary folder."""
LEAST = 64 * 2**20
"""Free bytes: Ray stops where its disk is full."""
PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Looked at in this order, where the folder that the environment names cannot be used."""

log = logging.getLogger(__name__)


def shorten() -> None:
    """Set TMPDIR and RAY_TMPDIR for Ray's processes. Raises ConfigError where no temporary folder can be used.

    A folder that cannot be used is replaced and one with a long path is linked, both with a warning that names it.
    """
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if folder := os.environ.get(variable):
            os.environ[variable] = _usable(variable, os.path.abspath(folder))
    if not (os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")) and (wrong := problem(PLACES[0])):
        os.environ["RAY_TMPDIR"] = os.environ["TMPDIR"] = _elsewhere(f"{PLACES[0]} ({wrong})")


def private() -> Path:
    """A new folder with a short path for this process, removed at its end. Raises ConfigError."""
    made = Path(tempfile.mkdtemp(prefix="lai-", dir=_elsewhere("a short path")))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def ray_logs(began: float) -> list[Path]:
    """The logs of Ray processes that started here since then (seconds since the epoch), and were the first to fail."""
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or PLACES[0]
    sessions = sorted(Path(base, "ray").resolve().glob("session_2*"), key=lambda path: path.name)
    mine = [path for path in sessions if path.name.endswith(f"_{os.getpid()}") and path.stat().st_mtime >= began]
    files = [
        log for session in mine[-1:] for log in (session / "logs").iterdir() if log.suffix in (".err", ".out", ".log")
    ]
    return sorted(files, key=lambda path: (path.suffix != ".err", path.stat().st_mtime))


def _usable(variable: str, folder: str) -> str:
    if variable == "RAY_TMPDIR":  # Ray makes its own; a TMPDIR that is not there is of another machine.
        _make(folder)
    if wrong := problem(folder):
        other = _elsewhere(f"{variable}={folder} ({wrong})")
        log.warning("%s=%s cannot be used (%s); temporary files are in %s", variable, folder, wrong, other)
        return other
    if len(os.fsencode(folder)) <= LONGEST:
        return folder
    link = private() / "t"
    link.symlink_to(folder)
    log.info("%s=%s is too long for Ray's sockets; they reach it as %s", variable, folder, link)
    return str(link)


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return  # `problem` finds it.


def problem(folder: str) -> str | None:
    """Why a folder cannot hold temporary files; None if it can."""
    if not os.path.isdir(folder):
        return "no such folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    if os.statvfs(folder).f_flag & os.ST_NOEXEC and not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return "mounted with noexec, and PyTorch runs there what it compiles"
    return None if free >= LEAST else f"only {free / 2**20:.0f} MiB are free"


def _elsewhere(instead_of: str) -> str:
    for place in PLACES:
        if problem(place) is None:
            return place
    reasons = ", ".join(f"{place} ({problem(place)})" for place in PLACES)
    raise ConfigError(
        f"Ray needs a temporary folder, and none can be used: not {instead_of}, and not {reasons}. Set RAY_TMPDIR to a "
        f"folder that can be written, with at least {LEAST >> 20} MiB free and a path of at most {LONGEST} bytes."
    )
