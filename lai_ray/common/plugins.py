"""Loads plug-ins by import: a Ray worker finds what the driver finds, without a registry.  name -> object"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import os
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from lai_ray.common import search_path
from lai_ray.errors import ConfigError

if TYPE_CHECKING:
    from lai_ray.records import Ask

ATTRIBUTES = {
    "benchmarks": "BENCHMARK", "strategies": "STRATEGY", "engines": "ENGINE", "training.objectives": "OBJECTIVE",
}  # fmt: skip
SINGULAR = {
    "benchmarks": "benchmark", "strategies": "strategy", "engines": "engine", "training.objectives": "objective",
}  # fmt: skip
SHAPES: dict[str, tuple[str, ...]] = {
    "benchmarks": (
        "name", "splits", "runs_code", "domain", "load", "problem", "prompt", "grade", "reference", "show", "brief",
        "parse", "group",
    ),
    "strategies": ("name", "uses_neighbours", "cases", "next|next_messages", "samples"),
    "engines": ("generate|call",),
    "training.objectives": ("tokens", "losses"),
}  # fmt: skip
"""The members without which a plug-in is refused; `lai_ray.contracts` describes them. "a|b": one of the two."""


def _next(strategy: Any, case: Any, replies: Any, benchmark: Any, settings: Any) -> Ask | None:
    """For a strategy that has `next_messages` alone: asks the instructor, and ends at a failed call."""
    from lai_ray.records import Ask  # Not above: a training runs without msgspec.

    failed = bool(replies) and replies[-1].completion.error is not None
    messages = None if failed else strategy.next_messages(case, replies, benchmark, settings)
    return None if messages is None else Ask("instructor", messages)


def accepts(strategy: Any, sample: Any, grade: Any) -> str | None:
    """The default of Strategy.accepts."""
    if grade.status == "error":
        return "the grader failed"
    return None if grade.score >= 1 else "its own answer is graded wrong"


def choose(strategy: Any, samples: Iterable[Any], most: int, settings: Any) -> Iterable[Any]:
    """The default of Strategy.choose."""
    return itertools.islice(samples, most)


def messages(given: Any, of: str) -> list[dict[str, str]]:
    """Chat messages that a plug-in returned. Raises ConfigError with its name for anything else."""
    shaped = isinstance(given, list) and given
    if not shaped or not all(isinstance(m, dict) and _text(m, "role") and _text(m, "content") for m in given):
        text = repr(given)
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        raise ConfigError(
            f"{of} returned {shown}, which is no list of chat messages. Return one, as in "
            '[{"role": "user", "content": "What is 2 + 2?"}]'
        )
    return given  # type: ignore[no-any-return]


def _text(message: dict[str, Any], name: str) -> bool:
    return isinstance(message.get(name), str)


SHOWN = 100
"""Characters of a wrong value that an error shows."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "benchmarks": {"source": None, "structure": lambda benchmark: None},
    "strategies": {
        "any_verdict": False, "asks": True, "same_questions": False, "Settings": None,
        "content": lambda strategy, benchmark, own: None,
        "texts": lambda strategy, attempts, settings: [], "next": _next,
        "accepts": accepts, "choose": choose,
    },
    "engines": {"check": lambda engine, settings: None},
    "training.objectives": {},
}  # fmt: skip
"""Members that a plug-in may leave out. A function gets the plug-in as its first argument."""


class WithDefaults:
    """A plug-in that lacks members which have a default."""

    def __init__(self, plugin: Any, kind: str) -> None:
        self._plugin, self._kind = plugin, kind
        self.__module__ = getattr(plugin, "__module__", type(plugin).__module__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Engines are classes."""
        return self._plugin(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_plugin" not in self.__dict__:
            raise AttributeError(name)
        earlier = name == "next" and hasattr(self._plugin, "next_messages")  # Also where a base class has `next`.
        if not earlier and (hasattr(self._plugin, name) or name not in DEFAULTS[self._kind]):
            return getattr(self._plugin, name)
        default = DEFAULTS[self._kind][name]
        return functools.partial(default, self._plugin) if callable(default) else default


def suggestion(name: str, known: list[str]) -> str:
    """ "Did you mean 'lec'? " when something known is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}? " if close else ""


def available(kind: str) -> list[str]:
    """The built-in names of one kind of plug-in, sorted."""
    package = importlib.import_module(f"lai_ray.{kind}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(kind: str, name: str) -> Any:
    """The plug-in `name` of `kind` (a key of ATTRIBUTES): a built-in name or "module:ATTRIBUTE".

    Raises ConfigError when there is none, with the names there are.
    """
    if ":" in name:
        plugin = attribute(name, what=kind)
        lacking = [one for one in SHAPES[kind] if not any(hasattr(plugin, member) for member in one.split("|"))]
        if lacking and not (kind == "engines" and isinstance(plugin, FunctionType)):  # It makes engines.
            raise ConfigError(
                f"{name!r} is no {SINGULAR[kind]}: it has no {', '.join(lacking).replace('|', ' or ')}; "
                "lai_ray/contracts.py describes what one must have."
            )
        whole = all(hasattr(plugin, member) for member in DEFAULTS[kind]) and not hasattr(plugin, "next_messages")
        return plugin if whole else WithDefaults(plugin, kind)
    known = available(kind)
    if name not in known:
        raise ConfigError(
            f"no {SINGULAR[kind]} has the name {name!r}. {suggestion(name, known)}"
            f'There are: {", ".join(known)}. Name your own by import: "my_pkg.my_file:{ATTRIBUTES[kind]}".'
        )
    return getattr(importlib.import_module(f"lai_ray.{kind}.{name}"), ATTRIBUTES[kind])


def runs_in_cluster(engine: str) -> bool:
    """Whether an engine runs its model in the cluster, as a target's does, instead of calling a server.

    False for one that does not exist: `load` reports it where it is used.
    """
    with suppress(ConfigError):
        return hasattr(load("engines", engine), "generate")
    return False


def attribute(name: str, *, what: str) -> Any:
    """The object that "module:ATTRIBUTE" names. Raises ConfigError with the half of the name that is wrong."""
    module_name, _, attribute_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what}: {name!r} cannot be imported ({error}). {module_name!r} is looked for on PYTHONPATH and in the "
            f"current folder, {os.getcwd()}."
        ) from error
    if not hasattr(module, attribute_name):
        if own := search_path.hidden_by_installed(module_name):
            raise ConfigError(
                f"{what}: {module_name!r} is {module.__file__}, which hides {own}: rename your file to a name that no "
                "module of Python or of an installed package has."
            )
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{what}: {module_name!r} has no {attribute_name!r}. {suggestion(attribute_name, names)}")
    return getattr(module, attribute_name)


def code_hash(*objects: Any) -> str:
    """Hash of the source of these and of what they import, as `sources` finds it.

    A stage whose result is pure is recomputed when this changes: an edited grader costs seconds, not answers.
    Raises ModuleNotFoundError for a module that is not there.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, source in sorted(sources(*objects).items()):
        digest.update(name.encode() + b"\0" + source)
    return digest.hexdigest()


def sources(*objects: Any) -> dict[str, bytes]:
    """The source of these, by module, and of what they import from beside them.

    objects: plug-ins, modules or module names; a package counts with every module in it. Imports are followed inside
    this package, and from a user's plug-in to the modules of its own top-level package or folder; other libraries, and
    imports for type checkers alone, do not count. Raises ModuleNotFoundError.
    """
    names = [thing if isinstance(thing, str) else _module_of(thing) for thing in objects]
    result: dict[str, bytes] = {}
    waiting = [member for name in names for member in _members(name)]
    while waiting:
        name = waiting.pop()
        if name not in result:
            path = _source(name)
            result[name] = path.read_bytes()
            waiting += _imports(name, path, result[name])
    return result


def _module_of(thing: Any) -> str:
    return str(
        thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", type(thing).__module__)
    )


def _members(name: str) -> list[str]:
    """A module, or a package with all modules below it."""
    below = _spec(name).submodule_search_locations or []
    return [name, *(module.name for module in pkgutil.walk_packages(below, f"{name}."))]


def _source(name: str) -> Path:
    """The file of a module's source. Raises ModuleNotFoundError."""
    origin = _spec(name).origin or ""
    if not origin.endswith(".py"):
        raise ModuleNotFoundError(f"there is no source of a module {name!r}", name=name)
    return Path(origin)


@functools.lru_cache(maxsize=1024)
def _imports(name: str, path: Path, source: bytes) -> tuple[str, ...]:
    """The modules of the same top-level package that a module imports; of a lone file, those in its folder."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    modules: list[str] = []
    tree = ast.parse(source)
    tried = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in _outside_type_checking(tree):
        optional = id(node) in tried  # What is not there is the module's own affair.
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if _belongs(alias.name, name, path)]
            modules += [one for one in names if not (optional and _missing(one))]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            if _belongs(base, name, path) and not (optional and _missing(base)):
                # Only a package has modules for members; looking into anything else would import it.
                below = {module.name for module in pkgutil.iter_modules(_spec(base).submodule_search_locations or [])}
                modules += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name in below)]
    return tuple(module for module in modules if (_spec(module).origin or "").endswith(".py"))


def _missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        return True


def _spec(name: str) -> ModuleSpec:
    """Raises ModuleNotFoundError, also for what is imported and not there."""
    if (spec := importlib.util.find_spec(name)) is None:
        raise ModuleNotFoundError(f"there is no module {name!r}", name=name)
    return spec


def _outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _outside_type_checking(node)


def _belongs(module: str, importer: str, path: Path) -> bool:
    """Whether an imported module is of the importer's own package, or lies in the folder of a lone file."""
    top = module.partition(".")[0]
    if "." in importer or path.name == "__init__.py":
        return top == importer.partition(".")[0]
    return (path.parent / f"{top}.py").is_file() or (path.parent / top / "__init__.py").is_file()
