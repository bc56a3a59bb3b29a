"""Ray's authentication token on this machine, in the places where Ray looks for it.  environment, ~/.ray -> Token"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Token:
    """A token, and where it was found, for messages."""

    value: str
    source: str


def find() -> Token | None:
    """The token that Ray would use here; None if there is none."""
    if value := os.environ.get("RAY_AUTH_TOKEN"):
        return Token(value.strip(), "the variable RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        return Token(
            path.read_text().strip(), f"{named}, named by RAY_AUTH_TOKEN_PATH" if named else "~/.ray/auth_token"
        )
    return None


def may_be_sent() -> bool:
    """Whether the user has not turned tokens off."""
    return os.environ.get("RAY_AUTH_MODE", "token") == "token"
