"""Something looked at now and then, in a thread of its own, while Ray is there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Regularly:
    """Calls `look` every so many seconds, and a last time when it is closed.

    It is for looking at: a run does not end for an error here, which is logged once for as long as it is the same.
    """

    def __init__(self, look: Callable[[], None], seconds: float, name: str) -> None:
        self._look, self._seconds, self._name = look, seconds, name
        self._last_error = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look once more and stop."""
        self._over.set()
        self._thread.join(5)

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self._once()
        self._once()

    def _once(self) -> None:
        try:
            self._look()
            self._last_error = ""
        except Exception as error:
            said = f"{self._name}: {type(error).__name__}: {error}"
            if said != self._last_error:
                log.warning("%s", said)
            self._last_error = said
