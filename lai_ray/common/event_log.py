"""The driver's event log, logs/driver.jsonl: a JSON line for each report, log record and error.

{"time": "2026-11-21T17:02:11.318Z", "level": "info", "run": "mine", "iteration": 0, "stage": "instruct",
 "message": "word_problems: 812 of 1200 samples accepted from 410 replies"}

Libraries and the cluster's processes log to other files in that folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lai_ray.common import screen
from lai_ray.common.progress import Progress

FILE = "driver.jsonl"
OURS = logging.getLogger("lai_ray")


class EventLog(logging.Handler):
    """Writes what is logged under "lai_ray", with the run's iteration and stage."""

    def __init__(self, path: Path, run: str, progress: Progress) -> None:
        super().__init__()
        self.run, self.progress = run, progress
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        """One line, written at once; a full disk must not end the run here."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": record.levelname.lower(), "run": self.run, **self.progress.stage()}
        line |= {"message": record.getMessage().strip(), **getattr(record, "facts", {})}
        with contextlib.suppress(OSError):
            os.write(self._file, (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        super().close()


class Shown(logging.Handler):
    """Warnings go to the screen too, above a progress bar if there is one; to stderr where progress is not shown."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """One line; what ends a run is shown by the command itself."""
        if getattr(record, "facts", {}).get("ended"):
            return
        if self.progress.quiet:
            screen.write(self.format(record), sys.stderr)
        else:
            screen.show(self.progress.console, self.format(record), "yellow")


@contextlib.contextmanager
def event_log(folder: str | None, run: str, progress: Progress) -> Iterator[None]:
    """While the block runs, write an event log in `folder`; none where that is None."""
    if folder is None:
        yield
        return
    before, log = OURS.level, EventLog(Path(folder) / FILE, run, progress)
    handlers = [log, Shown(progress)]
    OURS.setLevel(logging.INFO)
    for handler in handlers:
        OURS.addHandler(handler)
    try:
        yield
    except BaseException as error:
        why = "" if isinstance(error, Exception) else "interrupted: "
        OURS.error("%s%s: %s", why, type(error).__name__, error, extra={"facts": {"ended": True}})
        raise
    finally:
        for handler in handlers:
            OURS.removeHandler(handler)
        OURS.setLevel(before)
        log.close()
