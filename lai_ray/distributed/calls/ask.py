"""Calls an instructor's API: an actor pool under one rate limiter.  requests -> answers, in any order

The driver draws requests, gets permits from the rate limiter and gives them to the caller with the fewest calls. A
caller makes single attempts; each retry needs a permit of its own. Permits and outcomes travel in batches, as a round
trip takes about a millisecond.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.contracts import Again
from lai_ray.distributed.calls.retry import RetryTimes
from lai_ray.distributed.calls.scheduler import Scheduler, log
from lai_ray.records import Answer, Request


def ask(
    requests: Iterable[Request | None],
    settings: InstructorSettings,
    limits: LimitSettings,
    cluster: ClusterSettings,
    base_url: str | None = None,
    logs: str | None = None,
    *,
    again: Again | None = None,
    times: RetryTimes | None = None,
    report: Callable[[str], None] | None = None,
    learned: dict[str, str] | None = None,
) -> Iterator[Answer]:
    """The instructor's answers, as they come; a request that failed for good has `completion.error`.

    A request is drawn when a call is free, at most `limits.max_in_flight` before their answers, and only one or two
    ahead of the rate limit. None among the requests means that none is available until a call in flight finishes.
    `again` decides whether a request that may have been paid for is sent once more (see Executor.ask). Ray must be
    initialised; `base_url` must be reachable from its workers, and the key's variable set in their environment. `logs`:
    the run's folder for them, with one line about each failed attempt. `report` gets messages about dead callers and
    long waits for the rate limit; without it they are warnings of Python's logging. `learned`: see Scheduler.

    Raises StageError, with the provider's message where there is one, when no request can succeed (wrong key, unknown
    model, empty account), the address does not answer, callers keep dying, or nothing finishes for
    `cluster.stall_seconds`, waits for the rate limit apart.
    """
    with _logged(logs):
        scheduler = Scheduler(
            iter(requests),
            settings,
            limits,
            cluster,
            base_url,
            times,
            may_resend=again,
            report=report,
            run=logs,
            learned=learned,
        )
        try:
            yield from scheduler.answers()
        finally:
            scheduler.close()


@contextmanager
def _logged(folder: str | None) -> Iterator[None]:
    """Write the scheduler's log, retries included, to a file in `folder` as well."""
    if folder is None:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    handler = logging.FileHandler(Path(folder) / "instructor.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
        handler.close()
