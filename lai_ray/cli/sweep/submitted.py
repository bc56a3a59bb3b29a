"""A sweep as one `ray job submit`.  sweep file -> Submission"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lai_ray.cli.sweep import file
from lai_ray.distributed.jobs.submission import Planned, Submission, for_runs, inside


def of(path: Path, overrides: Sequence[str] = ()) -> Submission:
    """The submission of `lai sweep` with these arguments. Raises ConfigError as for a job."""
    sweep = file.read(path, list(overrides))
    words = ("sweep", inside(str(path), "the sweep file"), *overrides)
    runs = [Planned(Path(sweep.job), [*overrides, *member.overrides()], member.config) for member in sweep.members]
    return for_runs(runs, words, place=sweep.storage, name=sweep.name, above=path)
