"""One driver at a time writes a run: its numbered file with a heartbeat, and a check before each write."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lai_ray.errors import StageError
from lai_ray.storage.keys import encode
from lai_ray.storage.store import Store

HEARTBEAT = 10.0
"""Seconds between two heartbeats of a driver."""
FRESH = 60.0
"""Seconds without a heartbeat after which a driver counts as dead."""


@dataclass(frozen=True)
class Fence:
    """Called before every write of one start of a run, in every process of that start."""

    where: str
    number: int

    def __call__(self) -> None:
        """Raises StageError when a newer driver has taken the run over."""
        # create=False: the folder of a run that was moved away must not appear again.
        if Store(self.where, create=False).exists(f"driver/{self.number + 1:04d}.json"):
            raise StageError(
                f"{self.where}: a newer driver has taken over this run; this one stops and writes nothing more"
            )


class Driver:
    """This process as the one live driver of a run: a numbered file, a heartbeat, and a fence before each write."""

    def __init__(self, where: str) -> None:
        self.store = Store(where).inside("driver")
        self.where = where
        self.number = self._claim()
        self.fence = Fence(where, self.number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _claim(self) -> int:
        numbers = [int(Path(name).stem) for name in self.store.names()]
        last = max(numbers, default=0)
        if last:
            self._refuse_if_live(last)
        if not self.store.create(f"{last + 1:04d}.json", encode(self._entry())):
            raise StageError(f"{self.where}: another driver started at the same moment; see it with `lai show`")
        return last + 1

    def _entry(self, *, ended: bool = False) -> dict[str, Any]:
        me = psutil.Process()
        return {
            "host": socket.gethostname(),
            "pid": me.pid,
            "born": me.create_time(),
            "heartbeat": time.time(),
            "ended": ended,
            "command": sys.argv,
        }

    def _refuse_if_live(self, number: int) -> None:
        entry = self.store.get_json(f"{number:04d}.json")
        age, here = time.time() - entry["heartbeat"], entry["host"] == socket.gethostname()
        if entry["ended"] or (here and not _runs(entry["pid"], entry["born"])):
            return
        if age < FRESH or here:
            raise StageError(
                f"{self.where} is being written by process {entry['pid']} on {entry['host']} (last heartbeat "
                f"{age:.0f} s ago). Wait for it, or stop it; a dead one is ignored after {FRESH:.0f} s."
            )

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._write_heartbeat()

    def _write_heartbeat(self, *, ended: bool = False) -> None:
        # A full disk must not end the run here; the next real write raises.
        with contextlib.suppress(StageError):
            self.store.put(f"{self.number:04d}.json", encode(self._entry(ended=ended)))

    def close(self) -> None:
        """Record that this driver ended, so that the next need not wait."""
        self._stop.set()
        self._thread.join()
        self._write_heartbeat(ended=True)


def _runs(pid: int, born: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - born) < 1.0)
    except psutil.NoSuchProcess:
        return False
