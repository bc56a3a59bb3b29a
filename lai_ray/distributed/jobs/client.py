"""Connects to a Ray dashboard, which accepts jobs.  address -> JobSubmissionClient"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from lai_ray.distributed import ray_token
from lai_ray.errors import ConfigError

CONNECT_SECONDS = 10.0


def connect(address: str) -> Any:
    """A JobSubmissionClient with access to the jobs. Raises ConfigError if there is none, or Ray refuses the token."""
    headers = _headers()
    _check_is_ray(address, headers)
    from ray.job_submission import JobSubmissionClient

    quiet_ray()
    with explained(address), _only(address):
        client = JobSubmissionClient(address, headers=headers)
        try:
            client.list_jobs()  # The version alone is public.
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ConfigError(
                f"the Ray at {address} does not list its jobs: {reason}. Its head may still be starting, or a proxy "
                "may block the request. Try again in a minute."
            ) from error
        return client


@contextlib.contextmanager
def explained(address: str) -> Iterator[None]:
    """Turns Ray's AuthenticationError into a ConfigError with advice."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise _refused(address, str(error)) from error


def quiet_ray() -> None:
    """Ray's client logs every file that it uploads; leave only its errors."""
    for name in ("ray", *(name for name in logging.Logger.manager.loggerDict if name.startswith("ray."))):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray's own variable would override the address."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        if before is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def _headers() -> dict[str, str]:
    """Of every request: what a proxy needs, as in Ray's own command, and the token."""
    try:
        headers: dict[str, str] = json.loads(os.environ.get("RAY_JOB_HEADERS", "null")) or {}
    except ValueError as error:
        raise ConfigError(f'RAY_JOB_HEADERS is no JSON table like {{"name": "value"}}: {error}') from None
    token = ray_token.find()
    if token and ray_token.may_be_sent() and "authorization" not in map(str.lower, headers):
        headers["Authorization"] = f"Bearer {token.value}"
    return headers


def _check_is_ray(address: str, headers: dict[str, str]) -> None:
    """Raises ConfigError if Ray does not answer. Ray's own client would wait for minutes, or forever."""
    import requests

    try:
        reply = requests.get(f"{address}/api/version", headers=headers, timeout=CONNECT_SECONDS)
    except requests.RequestException as error:
        reason = "no answer within 10 s" if isinstance(error, requests.Timeout) else _innermost(error)
        raise ConfigError(
            f"no Ray dashboard at {address}: {reason}. Is the cluster up, and is its dashboard's port open to this "
            "machine? By default a dashboard listens on its head only: open a tunnel (ssh -L "
            "8265:127.0.0.1:8265 HEAD, kubectl port-forward, ray dashboard) and give its local end."
        ) from None
    if reply.status_code in (401, 403):
        return  # The token is checked later.
    try:
        is_ray = "ray_version" in reply.json()
    except ValueError:
        is_ray = False
    if not is_ray:
        raise ConfigError(
            f"the server at {address} (status {reply.status_code}) is not Ray's dashboard. Ray prints the dashboard's "
            "address when the head starts; the port is usually 8265."
        )


def _refused(address: str, message: str) -> ConfigError:
    token = ray_token.find()
    if token is None:
        reason = "none was found here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token)"
    elif not ray_token.may_be_sent():
        reason = f"none was sent: RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r} here"
    else:
        reason = f"the one from {token.source} is not its own"
    answer = message.strip().splitlines()[0].partition(": ")[2] or "refused"
    return ConfigError(
        f"the Ray at {address} requires its token, and {reason} ({answer}). `ray get-auth-token` on the head prints "
        "the right one; put it into ~/.ray/auth_token here, and unset RAY_AUTH_TOKEN."
    )


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error)
