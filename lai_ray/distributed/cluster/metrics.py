"""A run's figures on Ray's metrics endpoint, where Prometheus finds them.  Progress -> gauges

What stages count in `Progress.figures` is a gauge `ray_lai_<name>` with the tags run, iteration and stage, exported by
the node that the driver is on: samples accepted, requests and tokens a minute beside their limits, money, answers and
tokens a second, steps. `docs/submit.md` lists them.
"""

from __future__ import annotations

from typing import Any

from lai_ray.common.progress import RATES, Progress
from lai_ray.distributed.cluster.periodic import Regularly

EVERY = 2.0
"""Seconds between two looks; Ray itself reports every ten."""
TAGS = ("run", "iteration", "stage")


class Exporter:
    """Looks at the figures now and then, while Ray is there."""

    def __init__(self, run: str, progress: Progress) -> None:
        """Ray must be initialised."""
        self._run, self._progress = run, progress
        self._gauges: dict[str, Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self._regularly = Regularly(self._show, EVERY, "metrics")

    def close(self) -> None:
        """Show the last figures and stop."""
        self._regularly.close()

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
