"""Hosts on this machine, to simulate a pulled cable: network and process namespaces on one bridge.

Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


def ip(*words: str) -> None:
    """Run one `ip` command. Raises CalledProcessError with its output."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def possible() -> bool:
    """Whether this user can create hosts here."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "unshare")))


class Hosts:
    """`count` hosts, 10.77.0.11 and on, each with a /tmp/ray of its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self._processes = folder, count, list[subprocess.Popen[bytes]]()
        ip("netns", "add", "lai-br")
        ip("-n", "lai-br", "link", "add", "br0", "type", "bridge")
        ip("-n", "lai-br", "link", "set", "br0", "up")
        for i in range(count):
            ip("netns", "add", self.name(i))
            ip(
                "link",
                "add",
                f"v{i}",
                "netns",
                self.name(i),
                "type",
                "veth",
                "peer",
                "name",
                f"p{i}",
                "netns",
                "lai-br",
            )
            ip("-n", "lai-br", "link", "set", f"p{i}", "master", "br0", "up")
            ip("-n", self.name(i), "addr", "add", f"{self.address(i)}/24", "dev", f"v{i}")
            ip("-n", self.name(i), "link", "set", f"v{i}", "up")
            ip("-n", self.name(i), "link", "set", "lo", "up")

    def name(self, i: int) -> str:
        """Of its network namespace."""
        return f"lai-h{i}"

    def address(self, i: int) -> str:
        """On the bridge."""
        return f"10.77.0.{11 + i}"

    def start(self, i: int, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command on a host; its children end with it."""
        ray = self.folder / f"ray-{i}-{len(self._processes)}"
        ray.mkdir()
        inside = f'mount --bind {ray} /tmp/ray && exec "$@"'
        words = ["ip", "netns", "exec", self.name(i), "unshare", "-pf", "--kill-child", "--mount-proc", "bash", "-c"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*words, inside, "host", *command], env=dict(environment), stdout=out, stderr=subprocess.STDOUT
            )
        self._processes.append(process)
        return process

    def cable(self, i: int, state: str) -> None:
        """ "down" disconnects a host, "up" connects it again."""
        ip("-n", "lai-br", "link", "set", f"p{i}", state)

    def answers(self, i: int, port: int) -> bool:
        """Whether a host's port is open, tried on that host."""
        there = f"import socket; socket.create_connection(('{self.address(i)}', {port}), 2)"
        words = ["ip", "netns", "exec", self.name(i), sys.executable, "-c", there]
        return subprocess.run(words, capture_output=True).returncode == 0

    def close(self) -> None:
        """End all processes and remove the hosts."""
        for process in self._processes:
            process.kill()
            process.wait()
        for i in range(self.count):
            subprocess.run(["ip", "netns", "del", self.name(i)], capture_output=True)
        subprocess.run(["ip", "netns", "del", "lai-br"], capture_output=True)


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[Hosts]:
    """So many hosts."""
    Path("/tmp/ray").mkdir(exist_ok=True)
    made = Hosts(folder, count)
    try:
        yield made
    finally:
        made.close()
