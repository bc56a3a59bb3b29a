"""The user's folder on Python's search path: last, so that none of its files hides a module.  sys.path -> sys.path

Plug-ins are found in the folder where a command is given. That folder may hold code.py, random.py or datasets/, and
Python, Ray and vLLM must not find these instead of their own. Imports only what every Python has loaded already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

FOLDER = "LAI_USER_FOLDER"
"""Variable of a worker whose current folder is not the user's: the folder where the command was given."""


def user_folder_last() -> None:
    """Move the user's folder to the end of this process's search path."""
    here = os.environ.get(FOLDER) or os.getcwd()
    sys.path[:] = [*_other_than(here, sys.path), here]


def for_children(package: str) -> dict[str, str]:
    """PYTHONPATH and PYTHONSAFEPATH for child processes, which must not begin with the current folder.

    package: a folder that must be on their path.
    """
    given = os.environ.get("PYTHONPATH", "")
    paths = [package, *_other_than(os.getcwd(), given.split(os.pathsep) if given else [])]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}


def hiding() -> Iterator[tuple[str, str]]:
    """What hides an installed module from child processes: (file or folder on PYTHONPATH, the module's name).

    A file in the current folder hides nothing, unless that folder is on PYTHONPATH through another name.
    """
    installed = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    for folder in _other_than(os.getcwd(), os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if os.path.isdir(folder) and not any(_same(folder, path) for path in installed):
            for path, name in _modules_in(folder):
                if name in sys.stdlib_module_names or any(_has(place, name) for place in installed):
                    yield path, name


def hidden_by_installed(module: str) -> str | None:
    """The user's file that an import of this module does not reach, as another module has its name; None without."""
    top = module.partition(".")[0]
    for path in (os.path.join(os.getcwd(), f"{top}.py"), os.path.join(os.getcwd(), top, "__init__.py")):
        found = getattr(sys.modules.get(top), "__file__", None)
        if os.path.isfile(path) and top in sys.modules and not (found and _same(found, path)):
            return path
    return None


def _modules_in(folder: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if entry.endswith(".py") and entry != "__init__.py":
            yield path, entry.removesuffix(".py")
        elif os.path.isfile(os.path.join(path, "__init__.py")):
            yield path, entry


def _has(place: str, name: str) -> bool:
    return os.path.isfile(os.path.join(place, f"{name}.py")) or os.path.isdir(os.path.join(place, name))


def _other_than(folder: str, paths: Iterable[str]) -> list[str]:
    """Those that are another folder; "" is the current one."""
    return [path for path in paths if not _same(path or os.getcwd(), folder)]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
