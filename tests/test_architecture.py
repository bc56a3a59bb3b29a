"""The house stands as docs/design.md draws it: imports go one way, Ray has one room, the command line is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lai_ray"

RANKS = [
    ["errors"],
    ["records", "plugins"],
    ["settings"],
    ["config", "stats"],
    ["contracts", "doing", "progress", "chat", "jobfile"],
    ["objects"],
    ["store"],
    ["weights"],
    ["models", "journal"],
    ["rundir"],
    ["instructor", "similarity", "engines", "training"],
    ["benchmarks"],
    ["strategies"],
    ["stages"],
    ["loop", "report"],
    ["plan", "doctor", "distributed", "world", "grade", "contamination", "submission"],
    ["start"],
    ["paid", "sweep"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
NOT_EACH_OTHER = {"instructor", "similarity", "engines", "training"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_used(path: Path) -> set[str]:
    inside = {name.split(".")[1] for name in imported(path) if name.startswith("lai_ray.")}
    return {name for name in inside if name in RANK}


def test_every_file_lives_in_a_room_that_the_design_knows():
    assert {room(path) for path in files()} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    mine = room(path)
    if mine == "__init__":
        return
    upward = {other for other in rooms_used(path) if RANK[other] > RANK[mine]}
    assert not upward, f"{mine} imports {upward} from above"
    if mine in NOT_EACH_OTHER:
        sideways = (rooms_used(path) & NOT_EACH_OTHER) - {mine}
        assert not sideways, f"{mine} and {sideways} should not know each other"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("ray", "distributed"),
        ("vllm", "engines"),
        ("openai", "engines"),
        ("deepspeed", "training"),
        ("faiss", "distributed"),
    ],
)
def test_a_library_has_one_room(library, home):
    users = {room(path) for path in files() if {name.partition(".")[0] for name in imported(path)} & {library}}
    assert users == {home}


def test_training_and_chat_run_where_neither_ray_nor_pydantic_is_installed():
    code = (
        "import sys\n"
        "for name in ('ray', 'pydantic', 'msgspec', 'obstore', 'vllm'): sys.modules[name] = None\n"
        "import lai_ray.common.chat_template, lai_ray.training.sft\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["check", "jobs/quickstart.toml"], ["submit", "jobs/quickstart.toml", "storage=/runs", "--print"]],
)
def test_the_command_line_loads_no_heavy_library(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['lai', *{arguments!r}]\n"
        "from lai_ray.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'deepspeed', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_holds_two_things():
    long = {str(path.relative_to(PACKAGE)): n for path in files() if (n := path.read_text().count("\n")) > 400}
    assert not long
