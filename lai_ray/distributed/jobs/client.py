"""The way in to a cluster: its dashboard, which takes jobs from whoever has the token.  address -> client"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from lai_ray.distributed.jobs.submission import token_source
from lai_ray.errors import ConfigError

CONNECT_SECONDS = 10.0


def client(address: str) -> Any:
    """A JobSubmissionClient that was let in. Raises ConfigError when nobody answers, no Ray does, or it refuses us."""
    headers = _headers()
    _knock(address, headers)
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard", "ray._private.authentication", "ray._private.runtime_env"):
        quiet(name)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with understood(address), _told(address):
        found = JobSubmissionClient(address, headers=headers)
        try:
            found.list_jobs()  # The version is told to anybody.
        except RuntimeError as error:
            said = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ConfigError(
                f"the Ray at {address} does not tell its jobs: {said}. Is its head still starting, or is a proxy "
                "between that lets only some requests through? Give the command again in a minute."
            ) from error
        return found


@contextlib.contextmanager
def understood(address: str) -> Iterator[None]:
    """A refusal in words that help: ConfigError."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise _refused(address, str(error)) from error


def quiet(name: str) -> logging.Logger:
    """Ray's client says every file that it reads and every step that it takes."""
    logger = logging.getLogger(name)
    for each in (name, *(other for other in logging.Logger.manager.loggerDict if other.startswith(f"{name}."))):
        logging.getLogger(each).setLevel(logging.ERROR)
    return logger


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Ray thinks more of its variables than of the address it is given."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        if before is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def _headers() -> dict[str, str] | None:
    """What a proxy before the cluster wants, as Ray's command takes it."""
    given = os.environ.get("RAY_JOB_HEADERS", "null")
    try:
        headers: dict[str, str] | None = json.loads(given)
    except ValueError as error:
        raise ConfigError(f'RAY_JOB_HEADERS is no JSON table like {{"name": "value"}}: {error}') from None
    return headers


def _knock(address: str, headers: dict[str, str] | None) -> None:
    """Raises ConfigError when no Ray is there. Ray's own client would wait for minutes, or for ever."""
    import requests

    try:
        reply = requests.get(f"{address}/api/version", headers=headers, timeout=CONNECT_SECONDS)
    except requests.RequestException as error:
        reason = "no answer within 10 s" if isinstance(error, requests.Timeout) else _innermost(error)
        raise ConfigError(
            f"nobody answers at {address}: {reason}. Is the cluster up, and its dashboard's port open to this machine? "
            "A dashboard listens on the head alone unless Ray is told otherwise: come in through a tunnel (ssh -L "
            "8265:127.0.0.1:8265 HEAD, kubectl port-forward, ray dashboard) and give its near end."
        ) from None
    if reply.status_code in (401, 403):
        return  # With a token it may be another answer.
    try:
        found = "ray_version" in reply.json()
    except ValueError:
        found = False
    if not found:
        raise ConfigError(
            f"something answers at {address} (status {reply.status_code}), but it is not Ray's dashboard. Ray says "
            "its address when the head starts; the port is mostly 8265."
        )


def _refused(address: str, words: str) -> ConfigError:
    source = token_source()
    if source is None:
        was = "none was found here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token)"
    elif os.environ.get("RAY_AUTH_MODE", "token") != "token":
        was = f"none was sent: RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r} here"
    else:
        was = f"the one from {source} is not its own"
    said = words.strip().splitlines()[0].partition(": ")[2] or "refused"
    return ConfigError(
        f"the Ray at {address} asks for its token, and {was} ({said}). `ray get-auth-token` on the head shows the "
        "right one; put it into ~/.ray/auth_token here, and let RAY_AUTH_TOKEN unset."
    )


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error)
