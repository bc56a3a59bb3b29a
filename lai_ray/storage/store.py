"""Files below a folder of a disk or a prefix of a bucket; the one module that uses the client (`obstore`).

Credentials for a bucket come from each machine's own environment (AWS_ACCESS_KEY_ID, an instance's role, GOOGLE_
APPLICATION_CREDENTIALS …). None is ever passed here, so none can travel in a job, a file or a pickle.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from lai_ray.errors import ConfigError, StageError
from lai_ray.storage.keys import decode, encode

T = TypeVar("T")

SCHEMES = {"s3": "AWS_", "gs": "GOOGLE_"}
"""Object stores by the scheme of their URLs, and the prefix of the environment variables that configure each."""
PIECE = 1 << 23
"""Bytes per request when a file in a bucket is streamed: no request stays open while its lines are processed."""
SHOWN = 300
"""Characters of a client's error that are shown."""


def is_url(path: str) -> bool:
    """Whether a path is in an object store, not on a disk."""
    return "://" in path


class Store:
    """Files below `where`. Every write appears whole or not at all. Names are relative, with "/" between folders.

    `fence` is called before every write but `create`: it raises when this process may no longer write (a newer driver
    took over). Whatever reads raises StageError when the storage fails, and so does whatever writes, with what to do.
    """

    def __init__(self, where: str, *, fence: Callable[[], None] | None = None, create: bool = True) -> None:
        """Raises ConfigError for what cannot be a path; whether a bucket exists shows at the first use."""
        self.where, self.fence = where, fence
        self.local = None if is_url(where) else Path(where).absolute()
        """The folder on this disk; None in an object store."""
        if self.local is None:
            self._client, self._prefix = _bucket_of(where)
            return
        if not create and not self.local.is_dir():
            raise ConfigError(f"{where}: no such folder")
        self._prefix = ""
        try:
            self._client = LocalStore(str(self.local), mkdir=create)
        except (BaseError, OSError) as error:
            raise ConfigError(f"{where}: cannot be used as a folder: {first_line(error)}") from error

    def inside(self, folder: str) -> Store:
        """The same store, seen from a folder below; made when something is written."""
        return Store(f"{self.where.rstrip('/')}/{folder}", fence=self.fence)

    def exists(self, name: str) -> bool:
        """Whether there is a whole file of that name."""
        try:
            with self._reading(name):
                obstore.head(self._client, self._prefix + name)
        except FileNotFoundError:
            return False
        return True

    def get(self, name: str) -> bytes | None:
        """The content of a file, or None."""
        try:
            with self._reading(name):
                return bytes(obstore.get(self._client, self._prefix + name).bytes())
        except FileNotFoundError:
            return None

    def get_json(self, name: str) -> Any:
        """A JSON file as a plain value, or None."""
        content = self.get(name)
        return None if content is None else msgspec.json.decode(content)

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a whole file: these bytes, or the content of a file on this disk. Replaces what was there."""
        with self._writing(name):
            obstore.put(self._client, self._prefix + name, content)

    def put_json(self, name: str, value: Any) -> None:
        """A plain value as indented JSON, for people."""
        self.put(name, msgspec.json.format(encode(value), indent=2) + b"\n")

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not exist yet; False when another writer was first. Not fenced."""
        try:
            with self._explained(name):
                obstore.put(self._client, self._prefix + name, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def put_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Stream lines into one file, which appears when the last is written."""
        with self._writing(name), obstore.open_writer(self._client, self._prefix + name) as writer:
            for line in lines:
                writer.write(line + b"\n")

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, streamed. Raises FileNotFoundError."""
        rest = b""
        for chunk in self._chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def _chunks(self, name: str) -> Iterator[bytes]:
        if self.local is not None:
            yield from map(bytes, obstore.get(self._client, name).stream(min_chunk_size=1 << 20))
            return
        with self._reading(name):
            head = obstore.head(self._client, self._prefix + name)
        for start in range(0, head["size"], PIECE):
            yield self.piece(name, start, min(start + PIECE, head["size"]), tag=head["e_tag"])

    def piece(self, name: str, start: int, stop: int, *, tag: str | None = None) -> bytes:
        """Bytes start to stop (not included) of a file. Raises StageError when its tag has changed."""
        wanted: dict[str, Any] = {"range": (start, stop)} | ({"if_match": tag} if tag else {})
        with self._reading(name):
            return bytes(obstore.get(self._client, self._prefix + name, options=wanted).bytes())  # type: ignore[arg-type]

    def names(self, folder: str = "") -> list[str]:
        """Every file below a folder, sorted. Half-written files of a killed writer are not among them."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """Every file below a folder, by name: its bytes, and a tag that changes with the content."""
        below = self._prefix + (folder.strip("/") + "/" if folder else "")
        with self._reading(folder):
            items = [item for page in obstore.list(self._client, prefix=below or None) for item in page]
        sizes = {item["path"][len(self._prefix) :]: (item["size"], item["e_tag"] or "") for item in items}
        folders = {"", *(name[:at] for name in sizes for at, sign in enumerate(name) if sign == "/")}
        # pyarrow, which Ray writes with, makes an empty object for each folder; those are no files.
        return {name: facts for name, facts in sizes.items() if facts[0] or name not in folders}

    def remove(self, names: list[str]) -> None:
        """Remove files; those that do not exist are ignored."""
        if names:
            with self._writing(names[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._client, [self._prefix + name for name in names])

    def delete(self, folder: str) -> None:
        """Remove every file below a folder."""
        if self.local is not None:
            shutil.rmtree(self.local / folder, ignore_errors=True)
        else:
            self.remove(list(self.sizes(folder)))

    def copy(self, name: str, target: Store) -> bool:
        """Copy a file to another folder of the same bucket, on the server; False where they share no bucket."""
        if self.local is not None or target.local is not None or self._client is not target._client:
            return False
        with target._writing(name):
            obstore.copy(self._client, self._prefix + name, target._prefix + name)
        return True

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise StageError(f"{self.where}/{name} could not be read: {first_line(error)}.{self._hint()}") from error

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        if self.fence is not None:
            self.fence()
        with self._explained(name):
            yield

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            raise StageError(
                f"{self.where}/{name} could not be written: {first_line(error)}. Everything written before is kept; "
                f"free disk space or grant write access, and start the same command again.{self._hint()}"
            ) from error

    def _hint(self) -> str:
        if self.local is not None:
            return ""
        scheme, _, rest = self.where.partition("://")
        return (
            f" Does {scheme}://{rest.partition('/')[0]} exist, and may this machine's credentials "
            f"({SCHEMES[scheme]}… in the environment, or its role) list, read and write it?"
        )


class View(Generic[T]):
    """The records of one JSONL file, read anew at each pass: ids may be held in memory, texts not."""

    def __init__(self, store: Store, name: str, kind: type[T]) -> None:
        self.store, self.name, self.kind = store, name, kind

    def __iter__(self) -> Iterator[T]:
        for line in self.store.lines(self.name):
            yield decode(line, self.kind)


def _bucket_of(where: str) -> tuple[Any, str]:
    """The client of a URL's bucket, one a process, so that connections are reused; and the prefix, with its "/"."""
    scheme, _, rest = where.partition("://")
    bucket, _, folder = rest.strip("/").partition("/")
    if scheme not in SCHEMES or not bucket:
        raise ConfigError(
            f"{where!r} is no storage path: give a folder on a disk, s3://bucket/folder (S3 and compatible servers, "
            "with AWS_ENDPOINT_URL) or gs://bucket/folder (Google Cloud Storage)"
        )
    settings = frozenset(pair for pair in os.environ.items() if pair[0].startswith(SCHEMES[scheme]))
    return _client(f"{scheme}://{bucket}", settings), folder + "/" if folder else ""


@lru_cache(maxsize=16)
def _client(bucket: str, settings: frozenset[tuple[str, str]]) -> Any:
    """settings: of the environment, so that a process whose credentials change gets another client."""
    plain = any("ENDPOINT" in name and value.startswith("http://") for name, value in settings)
    try:
        return from_url(bucket, client_options={"allow_http": True} if plain else {})
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{bucket}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The part of a client's error that is shown: its first line, or code and message where a server sent XML."""
    text = str(error)
    sent = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    if sent:
        return f"the server reports {sent[1]}: {sent[2].rstrip('.')}"
    return text.split("\n")[0].rstrip(".: ")[:SHOWN]
