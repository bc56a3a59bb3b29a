"""A name -> an object, by import. No registry: what the driver finds, a Ray worker finds."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from lai_ray.errors import ConfigError

ATTRIBUTES = {"benchmarks": "BENCHMARK", "strategies": "STRATEGY", "engines": "ENGINE"}

SINGULAR = {"benchmarks": "benchmark", "strategies": "strategy", "engines": "engine"}
SHAPES: dict[str, tuple[str, ...]] = {
    "benchmarks": ("name", "splits", "load", "problem", "prompt", "grade"),
    "strategies": ("name", "uses_neighbours", "cases", "next_messages", "samples"),
    "engines": (),
}
"""What a plug-in of each kind is known by; `lai_ray.contracts` has all of it."""


def suggestion(name: str, known: list[str]) -> str:
    """ "Did you mean 'lec'? " when something known is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}? " if close else ""


def available(kind: str) -> list[str]:
    """The built-in names of one kind of plug-in, sorted."""
    package = importlib.import_module(f"lai_ray.{kind}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(kind: str, name: str) -> Any:
    """The plug-in `name` of `kind` ("benchmarks", "strategies", "engines"): a built-in name or "module:ATTRIBUTE".

    Raises ConfigError when there is none, with the names there are.
    """
    if ":" in name:
        found = attribute(name, what=kind)
        if lacking := [wanted for wanted in SHAPES[kind] if not hasattr(found, wanted)]:
            raise ConfigError(
                f"{name!r} is no {SINGULAR[kind]}: it has no {', '.join(lacking)}; "
                "lai_ray/contracts.py says what one must offer."
            )
        return found
    known = available(kind)
    if name not in known:
        raise ConfigError(
            f"no {SINGULAR[kind]} is called {name!r}. {suggestion(name, known)}"
            f'There are: {", ".join(known)}. Your own is named by import: "my_pkg.my_file:{ATTRIBUTES[kind]}".'
        )
    return getattr(importlib.import_module(f"lai_ray.{kind}.{name}"), ATTRIBUTES[kind])


def runs_in_cluster(engine: str) -> bool:
    """Whether an engine runs its model in the cluster, as a target's does, instead of asking a server.

    False for one that does not exist: that is said elsewhere, with those that do.
    """
    with suppress(ConfigError):
        return hasattr(load("engines", engine), "generate")
    return False


def attribute(name: str, *, what: str) -> Any:
    """The object that "module:ATTRIBUTE" names. Raises ConfigError that says which half of the name is wrong."""
    module_name, _, attribute_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what}: {name!r} cannot be imported ({error}). Is the folder of {module_name!r} on PYTHONPATH?"
        ) from error
    if not hasattr(module, attribute_name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{what}: {module_name!r} has no {attribute_name!r}. {suggestion(attribute_name, names)}")
    return getattr(module, attribute_name)


def code_hash(*objects: Any) -> str:
    """Hash of the source that these plug-ins run: their files and the private helpers (`_*.py`) beside them.

    A stage whose result is pure is recomputed when this changes: an edited grader costs seconds, not answers.
    """
    digest = hashlib.blake2b(digest_size=8)
    files: set[Path] = set()
    for thing in objects:
        module = thing if isinstance(thing, str) else getattr(thing, "__module__", None) or type(thing).__module__
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        files |= set(folder.glob("*.py")) if spec.submodule_search_locations else {Path(spec.origin)}
        files |= {p for p in folder.glob("_*.py") if p.name != "__init__.py"}
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
