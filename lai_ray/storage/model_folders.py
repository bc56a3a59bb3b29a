"""A model's folder wherever it is: a copy on this node's disk, its way onto the storage and off it.  place -> folder

Whole or not at all, both ways. On an object store `lineage.json` comes last and goes first, so what has one is whole;
on a disk a folder is renamed into its place. What a node has fetched stays in its cache: LAI_CACHE, or ~/.cache/lai.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lai_ray.errors import ConfigError, StageError
from lai_ray.storage.objects import Objects, is_url
from lai_ray.storage.store import key_of

LINEAGE, CARD = "lineage.json", "README.md"
UNFINISHED = "unfinished"
"""Stands beside a model that is being written. A model that somebody put there by hand has neither this nor lineage."""
PIECE = 1 << 24
AT_ONCE = 8
"""Pieces of so many bytes that are fetched side by side."""
RESTED = 3600.0
"""Seconds since a model in the cache was last asked for, after which it may go where room is needed."""

Files = dict[str, tuple[int, str]]


def cache() -> Path:
    """The folder on this node's disk for what is copied from an object store. Raises ConfigError when it cannot be."""
    named = os.environ.get("LAI_CACHE")
    place = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lai").expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError("not writable")
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{place} cannot hold this node's copies of models ({error}). Set LAI_CACHE on every node to a folder on "
            "its own disk, with room for the weights."
        ) from error
    return place.absolute()


def place_for(what: str, url: str) -> Path:
    """A folder of this node's cache that belongs to one place in an object store, the same at every start."""
    return cache() / what / f"{url.rstrip('/').rpartition('/')[2]}-{key_of(url)[:12]}"


def here(place: str) -> str:
    """A model's folder on this node. A URL is copied into the cache, once; a folder or a hub's name is what it was.

    Any number of processes may ask at once: one copies and the others wait for it. Raises StageError when the model is
    not there or not whole, is written anew meanwhile, or the disk has no room.
    """
    if not is_url(place):
        return place
    store = Objects(place)
    files = _whole(store)
    folder = cache() / "models" / key_of(place, sorted(files.items()))
    with _alone(folder):
        if not folder.is_dir():
            _make_room(folder, sum(size for size, _ in files.values()), place)
            _fetch(store, files, folder)
        os.utime(folder)
    return str(folder)


def lineage_of(place: str) -> dict[str, Any] | None:
    """What made the model of ours in a place; None where no whole one is."""
    try:
        content = Objects(place, create=False).get(LINEAGE)
        read: dict[str, Any] | None = None if content is None else json.loads(content)
    except (ConfigError, ValueError):
        return None
    return read


def publish(folder: str | Path, url: str, *, mine: Callable[[], bool] = lambda: True) -> None:
    """Put a model's folder into an object store, and let this node's cache have the folder: nothing is fetched back.

    `mine` is asked before each file. Raises StageError when it says no: another training writes here by now.
    """
    folder, store = Path(folder), Objects(url)
    names = sorted(_names(folder), key=lambda name: (name == LINEAGE, name))
    remove(url)
    store.put(UNFINISHED, b"")
    for name in names:
        if not mine():
            raise StageError(f"{url}: another training has begun to write this model; this one stands back")
        store.put(name, folder / name)
    store.remove([UNFINISHED])
    kept = cache() / "models" / key_of(url, sorted(_whole(store).items()))
    with _alone(kept):
        if kept.is_dir():
            shutil.rmtree(folder)
        else:
            os.utime(folder)
            shutil.move(folder, kept)


def copy(source: str, target: str) -> None:
    """The same model in another place, whole or not at all: hard links on one disk, within a bucket by its server."""
    if not is_url(target):
        out = Path(target).absolute()
        part = out.with_name(f".{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(here(source), part, copy_function=_linked)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
        return
    there = Objects(source)
    files = sorted(_whole(there) if is_url(source) else _names(Path(source)), key=lambda name: (name == LINEAGE, name))
    store = Objects(target)
    remove(target)
    store.put(UNFINISHED, b"")
    for name in files:
        if not there.copy(name, store):
            store.put(name, Path(here(source)) / name)
    store.remove([UNFINISHED])


def remove(place: str) -> None:
    """The weights in a place, and all beside them in their folder."""
    if is_url(place):
        store = Objects(place)
        store.remove([LINEAGE])
        store.delete("")
    else:
        path = Path(place).absolute()
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.rename(gone)  # At once: who is killed in the middle of it leaves nothing that looks whole.
        shutil.rmtree(gone, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _whole(store: Objects) -> Files:
    """A model's files, but for its card, which is written again when it has sat its tests."""
    found = store.sizes()
    if "config.json" not in found:
        raise StageError(
            f"{store.where}: no model there (no config.json). Its run may have removed it, or never made it."
        )
    if UNFINISHED in found and LINEAGE not in found:
        raise StageError(
            f"{store.where}: a model that was being written when its writer stopped, and not whole. The run that was "
            "to make it makes it again when it is started with its command."
        )
    return {name: facts for name, facts in found.items() if name not in (UNFINISHED, CARD)}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this node at a time; the lock of one that was killed is free again."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(store: Objects, files: Files, folder: Path) -> None:
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    pieces = [(name, at) for name, (size, _) in files.items() for at in range(0, size, PIECE)]

    def fetch(piece: tuple[str, int]) -> None:
        name, at = piece
        size, tag = files[name]
        content = store.piece(name, at, min(at + PIECE, size), tag=tag or None)
        with (part / name).open("r+b") as file:
            file.seek(at)
            file.write(content)

    try:
        for name in files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).touch()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(fetch, pieces):
                pass
        for name, (size, _) in files.items():
            with (part / name).open("rb") as file:
                os.fsync(file.fileno())
                if os.fstat(file.fileno()).st_size != size:
                    raise StageError(f"{store.where}/{name}: {size} bytes there, not as many came here")
        part.rename(folder)
    except OSError as error:
        raise StageError(
            f"{folder}: the copy of {store.where} cannot be written ({error}). Make room, or set LAI_CACHE "
            "to another disk."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_room(folder: Path, needed: int, place: str) -> None:
    """Copies that nobody has asked for lately go, the longest unasked first, as far as room is needed."""
    copies = [path for path in folder.parent.iterdir() if path.is_dir() and path.suffix != ".part"]
    for path in sorted(copies, key=lambda path: path.stat().st_mtime):
        rested = time.time() - path.stat().st_mtime > RESTED
        if rested and shutil.disk_usage(folder.parent).free < needed:
            shutil.rmtree(path, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise StageError(
            f"{folder.parent}: the copy of {place} needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free. Make "
            "room, or set LAI_CACHE on this node to a folder on a larger disk."
        )


def _linked(source: str, target: str) -> None:
    """The same file under a second name, or a copy where the disk cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
