"""Proxies named by the environment: which one a URL goes through, and never one to this machine.  URL -> Proxy | None

http_proxy, https_proxy and all_proxy, in lower or upper case, and no_proxy, as curl and urllib read them.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from lai_ray.errors import ConfigError

LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
SCHEMES = ("http", "https", "socks5", "socks5h")
"""Of proxies that the client of the instructor's server knows."""


@dataclass(frozen=True)
class Proxy:
    """The proxy of a URL, and the variable that names it."""

    variable: str
    url: str

    def __str__(self) -> str:
        """ "HTTPS_PROXY=http://proxy:3128", without a password."""
        scheme, _, rest = self.url.partition("://")
        return f"{self.variable}={scheme}://{rest.rpartition('@')[2]}"


def spare_local() -> None:
    """Name this machine in no_proxy, for this process and its children, where a proxy is set."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in VARIABLES):
        return
    for name in ("no_proxy", "NO_PROXY"):
        # Each reader takes one of the two, so both must hold what either did.
        listed = [one.strip() for form in ("no_proxy", "NO_PROXY") for one in os.environ.get(form, "").split(",")]
        if "*" not in listed:
            os.environ[name] = ",".join(dict.fromkeys([*filter(None, listed), *LOCAL, socket.gethostname()]))


def of(url: str) -> Proxy | None:
    """The proxy that a URL goes through; None where it goes directly, as every URL on this machine does."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_local(host) or _bypassed(host, parts.port):
        return None
    named = _named()
    for name in (parts.scheme, "all"):
        if value := named.get(name):
            variables = (f"{name}_proxy", f"{name}_PROXY".upper())
            variable = next((one for one in variables if os.environ.get(one) == value), variables[0])
            return Proxy(variable, value if "://" in value else f"http://{value}")
    return None


def check(url: str) -> None:
    """Raises ConfigError where the proxy that a URL goes through cannot be used. Sends nothing."""
    if (proxy := of(url)) is None:
        return
    scheme, host = proxy.url.partition("://")[0].lower(), urlsplit(url).hostname
    around = f"or list {host} in no_proxy to go there directly."
    if scheme not in SCHEMES:
        advice = "Write it as socks5://HOST:PORT" if scheme.startswith("socks") else "Write it as http://HOST:PORT"
        raise ConfigError(
            f"{proxy} names a proxy with the scheme {scheme!r}, and {url} would go through it. Known are "
            f"{', '.join(SCHEMES)}. {advice}, {around}"
        )
    if scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigError(
            f"{proxy} names a SOCKS proxy, and {url} would go through it, which needs a package that is not installed: "
            f"pip install socksio. Or name an HTTP proxy in {urlsplit(url).scheme.upper()}_PROXY, {around}"
        )


def client_options(proxy: Proxy | None) -> dict[str, Any]:
    """Arguments of an httpx client for one server: by this proxy, or by none.

    Left to itself such a client opens every proxy that is named, and fails for one that it does not need.
    """
    if proxy is not None:
        return {"proxy": proxy.url}
    if not set(_named()) - {"no"}:
        return {}
    files = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    # Without trust_env it would not read these two either.
    verify = {"verify": ssl.create_default_context(cafile=files[0], capath=files[1])} if any(files) else {}
    return {"trust_env": False, **verify}


def is_local(host: str) -> bool:
    """Whether a host's name or address is this machine's."""
    if host.lower() in (*LOCAL, socket.gethostname().lower()) or host.lower().endswith(".localhost"):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _bypassed(host: str, port: int | None) -> bool:
    """By no_proxy: a host, a domain, HOST:PORT, an address or a network as 10.0.0.0/8."""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # Not in typeshed.

    if proxy_bypass_environment(f"{host}:{port}" if port else host):
        return True
    for entry in _named().get("no", "").split(","):
        with suppress(ValueError):
            if "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False


def _named() -> dict[str, str]:
    """What the variables name, by scheme; "no" for no_proxy."""
    from urllib.request import getproxies_environment  # Not above: `lai --help` needs no HTTP.

    return getproxies_environment()
