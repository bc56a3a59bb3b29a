"""A run's figures on Ray's metrics endpoint, where Prometheus finds them.  Progress -> gauges

What stages count in `Progress.figures` is a gauge `ray_lai_<name>` with the tags run, iteration and stage, exported by
the node that the driver is on: samples accepted, requests and tokens a minute beside their limits, money, answers and
tokens a second, steps. `docs/submit.md` lists them.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from lai_ray.progress import RATES, Progress

EVERY = 2.0
"""Seconds between two looks; Ray itself reports every ten."""
TAGS = ("run", "iteration", "stage")

log = logging.getLogger(__name__)


class Exporter:
    """Looks at the figures now and then, in a thread of its own, while Ray is there."""

    def __init__(self, run: str, progress: Progress) -> None:
        """Ray must be initialised."""
        self._run, self._progress = run, progress
        self._gauges: dict[str, Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show the last figures and stop."""
        self._over.set()
        self._thread.join(5)

    def _watch(self) -> None:
        try:
            while not self._over.wait(EVERY):
                self._show()
            self._show()
        except Exception as error:  # Figures are for looking at; a run does not end for them.
            log.warning("the metrics stopped: %s: %s", type(error).__name__, error)

    def _show(self) -> None:
        where = {"run": self._run, **{name: str(value) for name, value in self._progress.where().items()}}
        tags = tuple(where.get(name, "") for name in TAGS)
        now = {(name, tags): float(value) for name, value in dict(self._progress.figures).items()}
        over = {key: 0.0 for key in self._last if key not in now and key[0].endswith(RATES)}
        for (name, values), value in {**now, **over}.items():
            self._gauge(name).set(value, dict(zip(TAGS, values, strict=True)))
        self._last = now

    def _gauge(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            self._gauges[name] = Gauge(f"lai_{name}", description=name.replace("_", " "), tag_keys=TAGS)
        return self._gauges[name]
