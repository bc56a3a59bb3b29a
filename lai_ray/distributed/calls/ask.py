"""The instructor's callers: a pool of async actors, and the one quota they share.  requests -> answers, in any order

The driver draws requests, gets leave for them from the quota actor, and hands them to the caller with the least to do;
a caller makes single attempts. Whatever is to be tried again goes through the quota again.
Leave is asked for, and outcomes collected, for many requests at once: a round trip costs about a millisecond.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.contracts import Again
from lai_ray.distributed.calls.retry import Pace
from lai_ray.distributed.calls.scheduler import Desk, log
from lai_ray.records import Answer, Request

USUAL = Pace()


def ask(
    requests: Iterable[Request | None],
    settings: InstructorSettings,
    limits: LimitSettings,
    cluster: ClusterSettings,
    base_url: str | None = None,
    logs: str | None = None,
    *,
    again: Again | None = None,
    pace: Pace = USUAL,
    say: Callable[[str], None] | None = None,
) -> Iterator[Answer]:
    """The instructor's answers, as they come; a request that failed for good comes back with `completion.error`.

    A request is drawn when a call is free, at most `limits.max_in_flight` before their answers, and only one or two
    ahead of the quota once the quota sets the pace; None for a request means "nothing more before something came home".
    `again` is asked before a request that may have been paid for is sent once more (see Executor.ask). No request, no
    actor. Ray must be initialised; `base_url` must be reachable from its workers, and the key's variable set in their
    environment. `logs`: a folder for a line on every attempt that failed. `say` is told of a dead caller, and of a long
    wait for the quota; without it these are warnings of Python's logging.

    Raises StageError, in the provider's own words where it has some, when no request can succeed (wrong key, unknown
    model, empty account), nobody answers at the address, callers keep dying, or nothing moves for
    `cluster.stall_seconds`. Waiting for the quota is not standing still: it is said.
    """
    drawn = iter(requests)
    first = next(drawn, None)
    if first is None:
        return
    with _logged(logs):
        everything, say = itertools.chain([first], drawn), say or log.warning
        desk = Desk(everything, settings, limits, cluster, base_url, pace, again, say)
        try:
            yield from desk.answers()
        finally:
            desk.close()


@contextmanager
def _logged(folder: str | None) -> Iterator[None]:
    """What this room logs goes to a file in `folder` as well, retries included."""
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
