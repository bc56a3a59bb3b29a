"""The user's folder: plug-ins are found in it, and nothing that others import.  an import -> the user's file | None

Plug-ins are found in the folder where a command is given. That folder may hold code.py, random.py or datasets/, and
Python, Ray and vLLM must not find these: neither instead of a module of that name, nor where they try whether an
optional one is there. So the folder is not on the search path; a finder serves the user's own imports from it, last.
Imports only what every Python has loaded already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder

FOLDER = "LAI_USER_FOLDER"
"""Variable of a worker whose current folder is not the user's: the folder where the command was given."""
MODULES = "LAI_USER_MODULES"
"""Variable of a worker: the user's modules that objects sent to it may belong to, separated by commas."""
PLUGINS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plugins.py")
PACKAGE = os.path.dirname(os.path.dirname(PLUGINS))


class UserFolder:
    """Finds modules in the user's folder: those that the user's own files, or `plugins`, import."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.names = set(os.environ.get(MODULES, "").split(","))

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Called by Python where no other finder has the module."""
        if path is None and (name in self.names or self._asked_by_the_user()):
            return PathFinder.find_spec(name, [self.folder])
        return None

    def _asked_by_the_user(self) -> bool:
        frame = sys._getframe(2)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        file = frame.f_code.co_filename
        return file == PLUGINS or _is_users(file, self.folder)


def user_folder_last() -> None:
    """Take the user's folder off this process's search path, and find the user's own imports in it."""
    here = os.environ.get(FOLDER) or os.getcwd()
    sys.path[:] = _other_than(here, sys.path)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, UserFolder)]
    sys.meta_path.append(UserFolder(here))


def for_workers() -> dict[str, str]:
    """The variable that names the user's modules which this process has imported."""
    modules = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    users = {name.partition(".")[0] for name, file in modules if file and _is_users(file, os.getcwd())}
    return {MODULES: ",".join(sorted(users))}


def _is_users(file: str, folder: str) -> bool:
    """Whether a file is in the user's folder, and no installed package or this one there."""
    path, inside = os.path.abspath(file), os.path.abspath(folder) + os.sep
    installed = "site-packages" in path or "dist-packages" in path or path.startswith(PACKAGE + os.sep)
    return path.startswith(inside) and not installed


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
