"""Hostile programs, run as the user who runs the tests and, where that is root, as an ordinary user too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lai_ray.grading.sandbox import runner
from tests.faults.hostile_programs import PROGRAMS

REPO = Path(__file__).parents[2]
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
AS_A_USER = (
    'mount --bind "$1" /mnt && exec setpriv --reuid=12345 --regid=12345 --clear-groups "/mnt/bin/$2" -m "$3" "$4"'
)


def escaped(command: list[str]) -> dict[str, str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["programs"] == len(PROGRAMS) >= 45
    return result["escaped"]


def offered() -> bool:
    try:
        return runner.strongest("namespaces") == "namespaces"
    except runner.SandboxRefusedError:
        return False


@pytest.mark.skipif(not offered(), reason="this machine offers no namespaces to this user: docs/sandbox.md")
def test_no_hostile_program_escapes_at_the_default_isolation_level():
    assert escaped([str(PYTHON), "-m", "tests.faults.hostile", "namespaces"]) == {}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to change to another user")
def test_no_hostile_program_of_an_ordinary_user_escapes():
    # The interpreter may be in a home folder that only root may enter: mounted at /mnt, for this process only.
    run = ["unshare", "--mount", "sh", "-c", AS_A_USER, "sh", str(PYTHON.parents[1]), PYTHON.name]
    assert escaped([*run, "tests.faults.hostile", "namespaces"]) == {}
