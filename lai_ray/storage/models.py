"""A model's name -> where its files are and what it is: a folder by its weights, a hub model by its commit."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lai_ray.common import plugins
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError
from lai_ray.storage import model_folders
from lai_ray.storage.objects import is_url

DECIDING = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "vocab.*",
)
"""The files of a model folder that decide what it answers."""
WEIGHTS = ("*.safetensors", "*.bin")
TOKENIZERS = ("tokenizer*", "vocab.*", "*.model")


def locate(name: str, *, setting: str) -> str:
    """The folder, hub name or URL that a setting means. Raises ConfigError when it is neither. Opens no model file."""
    if is_url(name):
        return name.rstrip("/")  # Whether it is there shows where it is resolved: that is a request to a server.
    place = str(plugins.attribute(name, what=setting)) if ":" in name and "\\" not in name else name
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{setting}: {place} is a folder without config.json, so not a Hugging Face model")
        if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            raise ConfigError(f"{setting}: {place} has a config.json but no weights (no {' or '.join(WEIGHTS)})")
        if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
            raise ConfigError(f"{setting}: {place} has no tokenizer; save it there with tokenizer.save_pretrained(...)")
        return str(folder.absolute())
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", place):
        return place
    raise ConfigError(f"{setting}: no model folder {place!r}, and it is no hub name (owner/name) either")


def is_local(place: str) -> bool:
    """Whether its files are in a folder of this disk."""
    return not is_url(place) and Path(place).is_dir()


def on_hub(place: str) -> bool:
    """Whether it is a hub's name."""
    return not is_url(place) and not Path(place).is_dir()


def has_chat_template(folder: str) -> bool:
    """Whether a model's folder says how messages are written for it."""
    if any(Path(folder).glob("chat_template*")):
        return True
    told = Path(folder) / "tokenizer_config.json"
    return told.is_file() and bool(json.loads(told.read_bytes()).get("chat_template"))


def resolve(name: str, *, setting: str, known: dict[str, Any] | None = None) -> Model:
    """The model behind a name, with its identity. `known` remembers hashes by file size and time, and is added to.

    Raises ConfigError when a hub model is neither in the local cache nor to be reached.
    """
    place = locate(name, setting=setting)
    if is_url(place):  # Known by its weights, as the same folder on a disk would be.
        return Model(path=place, identity=_folder_hash(Path(model_folders.here(place)), {} if known is None else known))
    if is_local(place):
        return Model(path=place, identity=_folder_hash(Path(place), {} if known is None else known))
    return Model(path=place, identity=f"{place}@{_hub_commit(place, setting)}")


def _folder_hash(folder: Path, known: dict[str, Any]) -> str:
    files = sorted({path for pattern in DECIDING for path in folder.glob(pattern) if path.is_file()})
    return files_hash(str(folder), files, known)


def files_hash(what: str, files: list[Path], known: dict[str, Any]) -> str:
    """Hash of the names and contents of files. `known` remembers it under `what`, by size and time of the files."""
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    remembered = known.get(what)
    if remembered and remembered["files"] == stamp:
        return str(remembered["hash"])
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    known[what] = {"files": stamp, "hash": digest.hexdigest()}
    return digest.hexdigest()


def _hub_commit(name: str, setting: str) -> str:
    """The commit of a hub model: of the local cache when it is there, else of the hub."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True)).name
    except Exception:  # not in the cache: ask the hub
        pass
    try:
        return str(huggingface_hub.HfApi().model_info(name).sha)
    except Exception as error:
        raise ConfigError(
            f"{setting}: {name!r} is no folder here, not in the local Hugging Face cache, and the hub did not give it "
            f"({type(error).__name__}). Check the name, or download it and name its folder."
        ) from error
