"""The package is laid out as docs/design.md has it: imports go one way, Ray has one room, the command line is light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lai_ray.common.plugins import ATTRIBUTES

PACKAGE = Path(__file__).parent.parent / "lai_ray"

LAYERS = [
    ["errors", "records"],
    ["common"],
    ["config"],
    ["contracts"],
    ["storage"],
    ["grading", "world.word_kinds"],
    ["training"],
    ["instructor"],
    ["engines"],
    ["benchmark_kinds"],
    ["benchmarks", "strategies"],
    ["stages"],
    ["loop", "report"],
    ["distributed", "world"],
    ["cli"],
    ["__main__"],
]
"""Rooms and files, the lowest first. A file belongs to its longest prefix here, and imports nothing from above it."""
ALONE = [{"training", "instructor"}, {"training", "engines"}]
"""Pairs of which neither imports the other, whatever their layers."""
HOMES = {"ray": "distributed", "vllm": "engines", "openai": "engines", "deepspeed": "training", "faiss": "distributed"}
MOST_ENTRIES = 22
MOST_LINES = 400


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """ "stages.curate"; a package by its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in files()}


def imports(path: Path) -> Iterator[str]:
    """Everything a file imports, those within functions too; not what is for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports name their module in full"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member.removeprefix("lai_ray.") in MODULES else node.module
        waiting += ast.iter_child_nodes(node)


def imported(path: Path) -> set[str]:
    """The files of this package that a file imports, by name."""
    inside = {name.removeprefix("lai_ray.") for name in imports(path) if name.startswith("lai_ray.")}
    assert inside <= set(MODULES), f"{path} imports {inside - set(MODULES)}"
    return inside


def layer(name: str) -> int:
    parts = name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(rank for prefix in prefixes for rank, entries in enumerate(LAYERS) if prefix in entries)


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_go_one_way(path):
    mine = name_of(path)
    if not mine:
        return
    above = {other for other in imported(path) if layer(other) > layer(mine)}
    assert not above, f"{mine} imports {above} from above"
    room = mine.partition(".")[0]
    beside = {other for other in imported(path) if {room, other.partition(".")[0]} in ALONE}
    assert not beside, f"{mine} and {beside} should not know each other"


def test_no_files_import_each_other_in_a_circle():
    waiting = {name: imported(path) - {name} for name, path in MODULES.items()}
    while free := {name for name, others in waiting.items() if not others & waiting.keys()}:
        waiting = {name: others for name, others in waiting.items() if name not in free}
    assert not waiting, f"in a circle, or above one: {', '.join(sorted(waiting))}"


def test_every_layer_is_there_and_every_file_has_one():
    assert all(entry in MODULES for entries in LAYERS for entry in entries)
    assert all(layer(name) >= 0 for name in MODULES if name)


def test_the_top_of_the_package_can_be_taken_in_at_a_glance():
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_a_room_of_plug_ins_holds_nothing_else(kind):
    for path in (PACKAGE / kind.replace(".", "/")).glob("*"):
        if path.name.startswith("__"):
            continue
        assert path.suffix == ".py", path
        module = importlib.import_module(f"lai_ray.{kind}.{path.stem}")
        assert hasattr(module, ATTRIBUTES[kind]), f"{path.name} is no plug-in; helpers live elsewhere"


@pytest.mark.parametrize(("library", "home"), HOMES.items())
def test_a_library_has_one_room(library, home):
    users = {path for path in files() if library in {name.partition(".")[0] for name in imports(path)}}
    assert {name_of(path).partition(".")[0] for path in users} == {home}


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


def test_no_file_is_too_long_to_be_read_at_once():
    long = {name: n for name, path in MODULES.items() if (n := path.read_text().count("\n")) > MOST_LINES}
    assert not long
