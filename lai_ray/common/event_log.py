"""The driver's log for machines: logs/driver.jsonl, a JSON line for whatever is said, logged or goes wrong.

{"time": "2026-11-21T17:02:11.318Z", "level": "info", "run": "mine", "iteration": 0, "stage": "instruct",
 "message": "word_problems: 812 of 1200 samples accepted from 410 replies"}

Libraries and the cluster's processes write to other files of that folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lai_ray.common.progress import Progress

FILE = "driver.jsonl"
OURS = logging.getLogger("lai_ray")


class Journal(logging.Handler):
    """Writes what is logged under "lai_ray", with the place that the run is at."""

    def __init__(self, path: Path, run: str, progress: Progress) -> None:
        super().__init__()
        self.run, self.progress = run, progress
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        """One line, written whole; a full disk must not end the run here."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"time": time, "level": record.levelname.lower(), "run": self.run, **self.progress.where()}
        told |= {"message": record.getMessage().strip(), **getattr(record, "facts", {})}
        with contextlib.suppress(OSError):
            os.write(self._file, (json.dumps(told, ensure_ascii=False, default=str) + "\n").encode())

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)
        super().close()


@contextlib.contextmanager
def journal(folder: str | None, run: str, progress: Progress) -> Iterator[None]:
    """While the block runs, keep a journal in `folder`; in none where there is no folder on a disk."""
    if folder is None:
        yield
        return
    before, kept = OURS.level, Journal(Path(folder) / FILE, run, progress)
    handlers = [kept, *([logging.lastResort] if logging.lastResort else [])]  # Warnings still go to stderr too.
    OURS.setLevel(logging.INFO)
    for handler in handlers:
        OURS.addHandler(handler)
    try:
        yield
    except BaseException as error:
        why = "" if isinstance(error, Exception) else "stopped from outside: "
        OURS.error("%s%s: %s", why, type(error).__name__, error, extra={"facts": {"ended": True}})
        raise
    finally:
        for handler in handlers:
            OURS.removeHandler(handler)
        OURS.setLevel(before)
        kept.close()
