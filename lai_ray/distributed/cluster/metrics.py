"""Exports a run's figures as Prometheus gauges on Ray's metrics endpoint.  Progress -> gauges

Each figure in `Progress.figures` becomes a gauge `ray_lai_<name>` with the tags run, iteration and stage, exported by
the driver's node. `docs/submit.md` lists them.
"""

from __future__ import annotations

from typing import Any

from lai_ray.common.progress import RATES, Progress
from lai_ray.distributed.cluster.periodic import PeriodicTask

EVERY = 2.0
"""Seconds between two updates; Ray itself reports every ten."""
TAGS = ("run", "iteration", "stage")


class Exporter:
    """Updates the gauges every EVERY seconds, while Ray is connected."""

    def __init__(self, run: str, progress: Progress) -> None:
        """Ray must be initialised."""
        self._run, self._progress = run, progress
        self._gauges: dict[str, Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self._task = PeriodicTask(self._update, EVERY, "metrics")

    def close(self) -> None:
        """Export the last figures and stop."""
        self._task.close()

    def _update(self) -> None:
        where = {"run": self._run, **{name: str(value) for name, value in self._progress.stage().items()}}
        tags = tuple(where.get(name, "") for name in TAGS)
        now = {(name, tags): float(value) for name, value in dict(self._progress.figures).items()}
        ended = {key: 0.0 for key in self._last if key not in now and key[0].endswith(RATES)}
        for (name, values), value in {**now, **ended}.items():
            self._gauge(name).set(value, dict(zip(TAGS, values, strict=True)))
        self._last = now

    def _gauge(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            self._gauges[name] = Gauge(f"lai_{name}", description=name.replace("_", " "), tag_keys=TAGS)
        return self._gauges[name]
