"""A function called every few seconds in a thread of its own, while Ray is connected."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class PeriodicTask:
    """Calls `function` every so many seconds, and a last time when it is closed.

    For monitoring only: an error does not end the run. It is logged, once for as long as it stays the same.
    """

    def __init__(self, function: Callable[[], None], seconds: float, name: str) -> None:
        self._function, self._seconds, self._name = function, seconds, name
        self._last_error = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call it once more and stop."""
        self._closed.set()
        self._thread.join(5)

    def _loop(self) -> None:
        while not self._closed.wait(self._seconds):
            self._call()
        self._call()

    def _call(self) -> None:
        try:
            self._function()
            self._last_error = ""
        except Exception as error:
            message = f"{self._name}: {type(error).__name__}: {error}"
            if message != self._last_error:
                log.warning("%s", message)
            self._last_error = message
