"""SIGKILL for one training worker, at a chosen moment."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

from lai_ray.training import checkpoints, export

MOMENTS = ("before the first state", "between states", "during a save")


def workers() -> list[psutil.Process]:
    """The training workers of this test's own Ray."""
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline()[:1])]


def is_time(moment: str, out: str) -> bool:
    kept, states = checkpoints.last_whole(out), checkpoints.folder_of(out)
    if moment == "before the first state":
        metrics = export.part_of(out) / export.METRICS
        return kept is None and not states.exists() and metrics.exists() and metrics.stat().st_size > 0
    if kept is None:
        return False  # Only the second save is interrupted, so that there is a checkpoint to lose.
    being_written = any(any(folder.iterdir()) for folder in states.glob(".*"))
    return being_written if moment == "during a save" else not being_written


class Killer(threading.Thread):
    """Kills one worker at the moment; polls all the time."""

    def __init__(self, moment: str, out: str) -> None:
        super().__init__(daemon=True)
        self.moment, self.out, self.over = moment, out, threading.Event()
        self.found: dict[str, int] = {}
        self.half: list[str] = []

    def run(self) -> None:
        victims: list[int] = []
        while not self.over.is_set() and not self.found:
            try:
                # The victim is found beforehand: listing all processes takes longer than a save.
                if not victims and (export.part_of(self.out) / export.METRICS).exists():
                    victims = [each.pid for each in workers()]
                if victims and is_time(self.moment, self.out):
                    os.kill(victims[-1], signal.SIGKILL)
                    kept = checkpoints.last_whole(self.out)
                    self.half = [each.name for each in checkpoints.folder_of(self.out).glob(".*")]
                    self.found = {"step": kept[1].step if kept else 0}
            except (FileNotFoundError, ProcessLookupError, psutil.Error):  # Renamed, or ended, in between.
                pass
            time.sleep(0.001 if victims else 0.05)
