"""Files by name, below a folder of a disk or a prefix of a bucket: the one module that knows the client (`obstore`).

Keys for a bucket come from each machine's own environment (AWS_ACCESS_KEY_ID, an instance's role, GOOGLE_APPLICATION_
CREDENTIALS …). None is ever passed here, so none can travel in a job, a file or a pickle.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from lai_ray.errors import ConfigError, StageError

SCHEMES = {"s3": "AWS_", "gs": "GOOGLE_"}
"""Object stores by the beginning of their URLs, and of the environment variables that they are reached with."""
PIECE = 1 << 23
"""Bytes asked for at once of a file in a bucket: nobody keeps a request open while its lines are worked on."""
SAID = 300
"""Characters of a client's error that are shown."""


def is_url(place: str) -> bool:
    """Whether a place is in an object store, and no path on a disk."""
    return "://" in place


class Objects:
    """Files below `where`. Every write appears whole or not at all. Names are relative, with "/" between folders."""

    def __init__(self, where: str, *, create: bool = True) -> None:
        """Raises ConfigError for what can be no place; whether a bucket is there shows at the first use."""
        self.where, self.local = where, None if is_url(where) else Path(where).absolute()
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

    def exists(self, name: str) -> bool:
        """Whether there is a whole file of that name. Raises StageError, as all that reads, where nobody can tell."""
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

    def put(self, name: str, content: bytes | Path) -> None:
        """A whole file: these bytes, or what a file on this disk holds. Raises StageError with what to do."""
        with self._writing(name):
            obstore.put(self._client, self._prefix + name, content)

    def create(self, name: str, content: bytes) -> bool:
        """A file that must not be there yet; False when another writer was first."""
        try:
            with self._writing(name):
                obstore.put(self._client, self._prefix + name, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def put_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Lines as they come into one file, which appears when the last is written."""
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
            there = obstore.head(self._client, self._prefix + name)
        for start in range(0, there["size"], PIECE):
            yield self.piece(name, start, min(start + PIECE, there["size"]), tag=there["e_tag"])

    def piece(self, name: str, start: int, stop: int, *, tag: str | None = None) -> bytes:
        """Bytes start to stop (not included) of a file. Raises StageError when its tag is another by now."""
        wanted: dict[str, Any] = {"range": (start, stop)} | ({"if_match": tag} if tag else {})
        with self._reading(name):
            return bytes(obstore.get(self._client, self._prefix + name, options=wanted).bytes())  # type: ignore[arg-type]

    def sizes(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """Every file below a folder, by name: its bytes, and a tag that another content would not have."""
        below = self._prefix + (folder.strip("/") + "/" if folder else "")
        with self._reading(folder):
            found = [item for page in obstore.list(self._client, prefix=below or None) for item in page]
        sizes = {item["path"][len(self._prefix) :]: (item["size"], item["e_tag"] or "") for item in found}
        folders = {"", *(name[:at] for name in sizes for at, sign in enumerate(name) if sign == "/")}
        # pyarrow, which Ray writes with, makes an empty object for each folder; those are no files.
        return {name: facts for name, facts in sizes.items() if facts[0] or name not in folders}

    def delete(self, folder: str) -> None:
        """Remove every file below a folder."""
        if self.local is not None:
            shutil.rmtree(self.local / folder, ignore_errors=True)
        else:
            self.remove(list(self.sizes(folder)))

    def remove(self, names: list[str]) -> None:
        """Remove files; those that are not there are no matter."""
        if names:
            with self._writing(names[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._client, [self._prefix + name for name in names])

    def copy(self, name: str, target: Objects) -> bool:
        """The same file in another folder of the same bucket, copied there and not through here; False elsewhere."""
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
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            raise StageError(
                f"{self.where}/{name} could not be written: {first_line(error)}. Everything written before is kept; "
                f"make room (or give the right to write) and start the same command again.{self._hint()}"
            ) from error

    def _hint(self) -> str:
        if self.local is not None:
            return ""
        scheme, _, rest = self.where.partition("://")
        return (
            f" Is {scheme}://{rest.partition('/')[0]} there, and may the keys in this machine's environment "
            f"({SCHEMES[scheme]}…, or its role) list, read and write it?"
        )


def _bucket_of(where: str) -> tuple[Any, str]:
    """The client of a URL's bucket, one a process, so that connections are kept; and the prefix, with its "/"."""
    scheme, _, rest = where.partition("://")
    bucket, _, folder = rest.strip("/").partition("/")
    if scheme not in SCHEMES or not bucket:
        raise ConfigError(
            f"{where!r} is no place to keep files: give a path on a disk, s3://bucket/folder (S3 and what speaks its "
            "protocol, AWS_ENDPOINT_URL says where) or gs://bucket/folder (Google Cloud Storage)"
        )
    reached_with = frozenset(pair for pair in os.environ.items() if pair[0].startswith(SCHEMES[scheme]))
    return _client(f"{scheme}://{bucket}", reached_with), folder + "/" if folder else ""


@lru_cache(maxsize=16)
def _client(bucket: str, reached_with: frozenset[tuple[str, str]]) -> Any:
    """reached_with: so that a process whose keys change gets another client."""
    plain = any("ENDPOINT" in name and value.startswith("http://") for name, value in reached_with)
    try:
        return from_url(bucket, client_options={"allow_http": True} if plain else {})
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{bucket}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What a client's error says to a person: its first line, or the code and the message where a server sent XML."""
    text = str(error)
    said = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    if said:
        return f"the server says {said[1]}: {said[2].rstrip('.')}"
    return text.split("\n")[0].rstrip(".: ")[:SAID]
