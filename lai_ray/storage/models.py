"""Finds a model and its identity: a folder by the hash of its weights, a hub model by its commit.  name -> Model"""

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
from lai_ray.storage.store import Store, is_url

DECIDING = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "vocab.*",
)
"""The files of a model folder that decide its answers."""
WEIGHTS = ("*.safetensors", "*.bin")
TOKENIZERS = ("tokenizer*", "vocab.*", "*.model")


def locate(name: str, *, setting: str) -> str:
    """The folder, hub name or URL that a setting names. Raises ConfigError when it is none. Opens no model file."""
    if is_url(name):
        return name.rstrip("/")  # `resolve` sees whether it exists: that is a request to a server.
    model = str(plugins.attribute(name, what=setting)) if ":" in name and "\\" not in name else name
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{setting}: {model} is a folder without config.json, so not a Hugging Face model")
        if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            raise ConfigError(f"{setting}: {model} has a config.json but no weights (no {' or '.join(WEIGHTS)})")
        if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
            raise ConfigError(f"{setting}: {model} has no tokenizer; save it there with tokenizer.save_pretrained(...)")
        return str(folder.absolute())
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model):
        return model
    raise ConfigError(f"{setting}: {model!r} is neither a model folder nor a hub name (owner/name)")


def is_local(model: str) -> bool:
    """Whether its files are in a folder on this disk."""
    return not is_url(model) and Path(model).is_dir()


def on_hub(model: str) -> bool:
    """Whether it is a hub name."""
    return not is_url(model) and not Path(model).is_dir()


def has_chat_template(folder: str) -> bool:
    """Whether a model's folder has a chat template."""
    if any(Path(folder).glob("chat_template*")):
        return True
    config = Path(folder) / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_bytes()).get("chat_template"))


def resolve(name: str, *, setting: str, known: dict[str, Any] | None = None) -> Model:
    """The model behind a name, with its identity. `known` caches hashes by file size and time, and is added to.

    Raises ConfigError when a hub model is neither in the local cache nor available from the hub.
    """
    path = locate(name, setting=setting)
    if on_hub(path):
        return Model(path=path, identity=f"{path}@{_hub_commit(path, setting)}")
    # A URL is known by its weights, as the same folder on a disk would be.
    return Model(path=path, identity=_folder_hash(Path(model_folders.local_path(path)), {} if known is None else known))


def check_there(name: str, *, setting: str) -> None:
    """Raises ConfigError for a model that does not exist, as `resolve` does. Reads no weights."""
    path = locate(name, setting=setting)
    if is_url(path):
        if not Store(path).exists("config.json"):
            raise ConfigError(f"{setting}: {path}: no model there (no config.json)")
    elif on_hub(path):
        _hub_commit(path, setting)


def _folder_hash(folder: Path, known: dict[str, Any]) -> str:
    files = sorted({path for pattern in DECIDING for path in folder.glob(pattern) if path.is_file()})
    return files_hash(str(folder), files, known)


def files_hash(what: str, files: list[Path], known: dict[str, Any]) -> str:
    """Hash of the names and contents of files. `known` caches it under `what`, by size and time of the files."""
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    cached = known.get(what)
    if cached and cached["files"] == stamp:
        return str(cached["hash"])
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    known[what] = {"files": stamp, "hash": digest.hexdigest()}
    return digest.hexdigest()


def _hub_commit(name: str, setting: str) -> str:
    """The commit of a hub model: of the local cache where it holds one, else of the hub."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True)).name
    except Exception:  # Not in the cache.
        pass
    try:
        return str(huggingface_hub.HfApi().model_info(name).sha)
    except Exception as error:
        raise ConfigError(
            f"{setting}: {name!r} is no folder here, not in the local Hugging Face cache, and not available from the "
            f"hub ({type(error).__name__}). Check the name, or download it and set its folder."
        ) from error
