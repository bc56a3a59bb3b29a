"""Only Ray's public API is imported, apart from what docs/design.md lists under "Ray's private parts"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"ray\.(core|dashboard|autoscaler(?!\.sdk)|train\.v2|tune\.execution)\b|ray\.(\w+\.)*_\w+")
LISTED = {
    "cluster/watchdog.py": {"ray.autoscaler.v2.sdk"},
    "jobs/upload.py": {"ray._private.runtime_env"},
    "search.py": {"ray.tune.execution"},
}


def private_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if PRIVATE.match(name))


def test_private_modules_of_ray_are_imported_only_where_the_design_lists_them():
    rooms = ROOT / "lai_ray/distributed"
    found = {str(path.relative_to(rooms)): set(private_imports(path)) for path in rooms.rglob("*.py")}
    assert {name: modules for name, modules in found.items() if modules} == LISTED
    design = (ROOT / "docs/design.md").read_text().partition("## Ray's private parts")[2]
    for name, modules in LISTED.items():
        [row] = [line for line in design.splitlines() if line.startswith(f"| `{name}`")]
        assert all(module in row for module in modules)
