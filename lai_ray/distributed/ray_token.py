"""Ray's authentication token on this machine, in the places where Ray looks for it.  environment, ~/.ray -> Token"""

from __future__ import annotations

import os
import secrets
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


def make_without_home() -> None:
    """A token for the cluster that this process starts, where Ray could not write one into the home folder."""
    if find() is not None:
        return
    with suppress(OSError, RuntimeError):
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def may_be_sent() -> bool:
    """Whether the user has not turned tokens off."""
    return os.environ.get("RAY_AUTH_MODE", "token") == "token"
