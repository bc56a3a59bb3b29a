"""Copies model folders between this node's disk and the storage, whole or not at all.  path or URL -> local folder

In an object store `lineage.json` is written last and removed first, so a folder that has one is whole; on a disk a
folder is renamed when it is complete. What a node has fetched stays in its cache: LAI_CACHE, or ~/.cache/lai.
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
from lai_ray.storage.keys import key_of
from lai_ray.storage.store import Store, is_url

LINEAGE, CARD = "lineage.json", "README.md"
UNFINISHED = "unfinished"
"""A file beside a model that is being written. A model put there by hand has neither this nor lineage.json."""
PIECE = 1 << 24
AT_ONCE = 8
"""Pieces of this many bytes that are fetched in parallel."""
UNUSED_SECONDS = 3600.0
"""After so long without use, a model in the cache may be removed where space is needed."""

Files = dict[str, tuple[int, str]]


def cache() -> Path:
    """The folder on this node's disk for copies from an object store. Raises ConfigError where none can be made."""
    named = os.environ.get("LAI_CACHE")
    path = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lai").expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError("not writable")
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{path} cannot hold this node's copies of models ({error}). Set LAI_CACHE on every node to a folder on "
            "its own disk, with space for the weights."
        ) from error
    return path.absolute()


def cache_path(what: str, url: str) -> Path:
    """The folder of this node's cache that belongs to a URL, the same at every start."""
    return cache() / what / f"{url.rstrip('/').rpartition('/')[2]}-{key_of(url)[:12]}"


def local_path(model: str) -> str:
    """A model's folder on this node. A URL is copied into the cache, once; a folder or a hub name is returned as it is.

    Any number of processes may call this at once: one copies and the others wait. Raises StageError when the model is
    missing or not whole, is rewritten meanwhile, or the disk has too little free space.
    """
    if not is_url(model):
        return model
    store = Store(model)
    files = _whole(store)
    folder = cache() / "models" / key_of(model, sorted(files.items()))
    with _locked(folder):
        if not folder.is_dir():
            _free_space(folder, sum(size for size, _ in files.values()), model)
            _fetch(store, files, folder)
        os.utime(folder)
    return str(folder)


def lineage_of(model: str) -> dict[str, Any] | None:
    """lineage.json of the model in a folder or URL; None where there is no whole model of a run."""
    try:
        content = Store(model, create=False).get(LINEAGE)
        read: dict[str, Any] | None = None if content is None else json.loads(content)
    except (ConfigError, ValueError):
        return None
    return read


def publish(folder: str | Path, url: str, *, mine: Callable[[], bool] = lambda: True) -> None:
    """Upload a model's folder to an object store, and move it into this node's cache: nothing is fetched back.

    `mine` is called before each file. Raises StageError when it returns False: another training writes here by now.
    """
    folder, store = Path(folder), Store(url)
    names = sorted(_names(folder), key=lambda name: (name == LINEAGE, name))
    remove(url)
    store.put(UNFINISHED, b"")
    for name in names:
        if not mine():
            raise StageError(f"{url}: another training is writing this model; aborted without overwriting it")
        store.put(name, folder / name)
    store.remove([UNFINISHED])
    kept = cache() / "models" / key_of(url, sorted(_whole(store).items()))
    with _locked(kept):
        if kept.is_dir():
            shutil.rmtree(folder)
        else:
            os.utime(folder)
            shutil.move(folder, kept)


def copy(source: str, target: str) -> None:
    """Copy a model, whole or not at all: by hard links on one disk, within a bucket on the server."""
    if not is_url(target):
        out = Path(target).absolute()
        part = out.with_name(f".{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(local_path(source), part, copy_function=_linked)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
        return
    origin = Store(source)
    files = sorted(_whole(origin) if is_url(source) else _names(Path(source)), key=lambda name: (name == LINEAGE, name))
    store = Store(target)
    remove(target)
    store.put(UNFINISHED, b"")
    for name in files:
        if not origin.copy(name, store):
            store.put(name, Path(local_path(source)) / name)
    store.remove([UNFINISHED])


def remove(model: str) -> None:
    """Remove a model's folder, at a path or a URL, with all that is in it."""
    if is_url(model):
        store = Store(model)
        store.remove([LINEAGE])
        store.delete("")
    else:
        path = Path(model).absolute()
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.rename(gone)  # Atomic: a kill in the middle of the removal leaves nothing that looks whole.
        shutil.rmtree(gone, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _whole(store: Store) -> Files:
    """A model's files without its card, which is rewritten with the scores."""
    files = store.sizes()
    if "config.json" not in files:
        raise StageError(
            f"{store.where}: no model here (no config.json). Its run may have removed it, or never written it."
        )
    if UNFINISHED in files and LINEAGE not in files:
        raise StageError(
            f"{store.where}: an incomplete model: its writer stopped. Start the run that was writing it with the same "
            "command; it writes the model again."
        )
    return {name: facts for name, facts in files.items() if name not in (UNFINISHED, CARD)}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this node at a time; the lock of a killed process is released."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(store: Store, files: Files, folder: Path) -> None:
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
                    raise StageError(f"{store.where}/{name}: has {size} bytes, and fewer arrived")
        part.rename(folder)
    except OSError as error:
        raise StageError(
            f"{folder}: the copy of {store.where} cannot be written ({error}). Free disk space, or set LAI_CACHE to "
            "another disk."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _free_space(folder: Path, needed: int, model: str) -> None:
    """Removes copies that were not used lately, the longest unused first, as far as space is needed."""
    copies = [path for path in folder.parent.iterdir() if path.is_dir() and path.suffix != ".part"]
    for path in sorted(copies, key=lambda path: path.stat().st_mtime):
        unused = time.time() - path.stat().st_mtime > UNUSED_SECONDS
        if unused and shutil.disk_usage(folder.parent).free < needed:
            shutil.rmtree(path, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise StageError(
            f"{folder.parent}: the copy of {model} needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free. Free "
            "disk space, or set LAI_CACHE on this node to a folder on a larger disk."
        )


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
