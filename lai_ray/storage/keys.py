"""Records as lines of JSON, and hashes of what decides a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def encode(record: Any) -> bytes:
    """A record (or plain value) as one line of JSON, without the newline."""
    return msgspec.json.encode(record)


@lru_cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(line: bytes, kind: type[T]) -> T:
    """The record in one line. Raises msgspec.ValidationError, which names the field, when it is not one."""
    record: T = _decoder(kind).decode(line)  # type: ignore[arg-type]
    return record


def key_of(*parts: Any) -> str:
    """Hash of everything that decides a result, 32 hex digits. Parts are plain JSON values or records."""
    return hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=16).hexdigest()


def key_of_all(items: Iterable[Any]) -> str:
    """`key_of([*items])`, holding one of them at a time."""
    digest = hashlib.blake2b(b"[[", digest_size=16)
    for i, item in enumerate(items):
        digest.update(b"," * (i > 0) + msgspec.json.encode(item, order="sorted"))
    digest.update(b"]]")
    return digest.hexdigest()


def number_of(*parts: Any) -> int:
    """The same as a non-negative number below 2³¹, for seeds and for a seeded order."""
    return int(key_of(*parts)[:8], 16) & 0x7FFFFFFF
