"""The messages between the process of a program and the process of its tests.  value <-> bytes

JSON with tags, exact built-in types only, never pickle. Any other value that a program returns becomes a Handle: the
value stays in its process and can be called, iterated and read by attribute remotely; it never decides equality.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

MAX_BYTES = 2 << 20
"""Of one frame."""
MAX_VALUES = 500_000
"""Of one frame."""
MAX_DEPTH = 200
"""Of nested containers."""

_TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
_TYPES |= {"object": object, "NoneType": type(None), "range": range}
_FUNCTIONS = {
    f.__name__: f for f in (abs, all, any, chr, divmod, hash, len, max, min, ord, pow, repr, round, sorted, sum)
}
_NAMED: dict[str, Any] = _TYPES | _FUNCTIONS
_DATES = (datetime.datetime, datetime.date, datetime.time)


class Gone(BaseException):
    """The other process has ended or sent a malformed frame. A BaseException, so that no test's `except` catches it."""


class TooLarge(Exception):
    """A value exceeds MAX_BYTES, MAX_VALUES or MAX_DEPTH."""


class Opaque(BaseException):
    """A test compares a value whose equality only the program could decide: no verdict."""


class ProgramError(Exception):
    """An exception of the program that has no built-in class that a test could expect."""


def send(fd: int, message: dict[str, Any]) -> None:
    """One frame: length, then JSON. Raises TooLarge."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{len(data)} bytes")
    view = memoryview(struct.pack("=I", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> dict[str, Any]:
    """The next frame. Raises Gone where there is none, or where it is too large, too deep or no JSON object."""
    (length,) = struct.unpack("=I", _exactly(fd, 4))
    if length > MAX_BYTES:
        raise Gone(f"a frame of {length} bytes")
    try:
        message = json.loads(_exactly(fd, length))
    except (ValueError, RecursionError, MemoryError) as error:
        raise Gone(f"a malformed frame: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise Gone("a malformed frame")
    return message


def _exactly(fd: int, length: int) -> bytes:
    pieces, missing = [], length
    while missing:
        piece = os.read(fd, min(missing, 1 << 20))
        if not piece:
            raise Gone("the other process has ended")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


class Writer:
    """Converts one value to tagged JSON. `keep` stores a value that cannot be sent and returns its handle's tag."""

    def __init__(self, keep: Callable[[Any], Any]) -> None:
        self.keep, self.left = keep, MAX_VALUES

    def write(self, value: Any, depth: int = 0) -> Any:
        """Raises TooLarge for more than MAX_VALUES values or MAX_DEPTH nested containers."""
        self.left -= 1
        if self.left < 0:
            raise TooLarge(f"more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise TooLarge(f"deeper than {MAX_DEPTH} containers")
        kind = _plain_kind(type(value))
        if kind in (bool, type(None)):
            return value
        if kind is str:
            return str.__str__(value)
        if kind is float:
            return float.__float__(value)
        if kind is int:
            number = int.__index__(value)
            return number if -(1 << 60) < number < 1 << 60 else {"int": f"{number:x}"}
        if kind is list:
            return [self.write(item, depth + 1) for item in list.__iter__(value)]
        return self._tagged(value, kind, depth + 1)

    def _tagged(self, value: Any, kind: Any, depth: int) -> Any:
        if kind in (tuple, set, frozenset, collections.deque):
            items = [self.write(item, depth) for item in kind.__iter__(value)]
            return {kind.__name__: items}
        if kind in (dict, collections.Counter, collections.OrderedDict, collections.defaultdict):
            # A defaultdict is sent as the dict it equals: its factory belongs to the program.
            name = "dict" if kind is collections.defaultdict else kind.__name__
            return {name: [[self.write(k, depth), self.write(v, depth)] for k, v in dict.items(value)]}
        if kind is type({}.keys()):
            return {"keys": [self.write(item, depth) for item in value]}
        if kind in (bytes, bytearray):
            return {kind.__name__: bytes(value).hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [self.write(n) for n in (value.start, value.stop, value.step)]}
        if kind is decimal.Decimal:
            return {"Decimal": str(value)}
        if kind is fractions.Fraction:
            return {"Fraction": [self.write(value.numerator), self.write(value.denominator)]}
        if kind in _DATES and value.__class__ is kind and getattr(value, "tzinfo", None) is None:
            return {kind.__name__: value.isoformat()}
        if any(value is named for named in _NAMED.values()):
            return {"builtin": value.__name__}
        return self.keep(value)


_VALUES: tuple[Any, ...] = (
    bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, type(None),
    type({}.keys()), collections.deque, collections.Counter, collections.OrderedDict, collections.defaultdict,
    decimal.Decimal, fractions.Fraction, *_DATES,
)  # fmt: skip


def _plain_kind(kind: type) -> type | None:
    """The built-in type whose `==` a value uses: its own, or the one it inherits from (named tuple, IntEnum)."""
    if kind in _VALUES:
        return kind
    for base in kind.__mro__[1:]:
        if base in _VALUES:
            return base if kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__ else None
    return None


class Reader:
    """Builds values from tagged JSON. `handle` returns the object for a value that stayed in the other process."""

    def __init__(self, handle: Callable[[list[Any]], Any]) -> None:
        self.makers: dict[str, Callable[[Any], Any]] = {
            "int": lambda text: int(text, 16),
            "tuple": lambda items: tuple(map(self.read, items)),
            "set": lambda items: set(map(self.read, items)),
            "frozenset": lambda items: frozenset(map(self.read, items)),
            "deque": lambda items: collections.deque(map(self.read, items)),
            "dict": self._pairs,
            "Counter": lambda pairs: collections.Counter(self._pairs(pairs)),
            "OrderedDict": lambda pairs: collections.OrderedDict(self._pairs(pairs)),
            "keys": lambda items: dict.fromkeys(map(self.read, items)).keys(),
            "bytes": bytes.fromhex,
            "bytearray": bytearray.fromhex,
            "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
            "range": lambda parts: range(*map(self.read, parts)),
            "Decimal": decimal.Decimal,
            "Fraction": lambda parts: fractions.Fraction(*map(self.read, parts)),
            "datetime": datetime.datetime.fromisoformat,
            "date": datetime.date.fromisoformat,
            "time": datetime.time.fromisoformat,
            "builtin": lambda name: _NAMED[name],
            "handle": handle,
        }

    def _pairs(self, pairs: list[list[Any]]) -> dict[Any, Any]:
        return {self.read(key): self.read(value) for key, value in pairs}

    def read(self, value: Any) -> Any:
        """The value. Raises Gone for anything that no Writer writes."""
        if isinstance(value, list):
            return [self.read(item) for item in value]
        if not isinstance(value, dict):
            return value
        try:
            ((tag, content),) = value.items()
            return self.makers[tag](content)
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError, AttributeError) as error:
            raise Gone(f"a malformed value: {type(error).__name__}") from None


class Handle:
    """A value that stayed in the program's process, as the tests see it.

    `ask(what, *arguments)` sends a request to that process. Equality is decided here: a value whose class has the `==`
    of `object` equals only itself; where the class defines `==` there is no verdict: the program would judge itself.
    """

    def __init__(self, number: int, kind: str, by_identity: bool, ask: Callable[..., Any]) -> None:
        set_locally = object.__setattr__
        for name, value in zip(
            ("_number", "_kind", "_by_identity", "_ask"), (number, kind, by_identity, ask), strict=True
        ):
            set_locally(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, key)

    def __len__(self) -> int:
        length = self._ask("len", self)
        if type(length) is not int:
            raise ProgramError(f"{self._kind} has no length")
        return length

    def __bool__(self) -> bool:
        return bool(self._ask("truth", self))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iter", self)
        while True:
            step = self._ask("next", iterator)
            if type(step) is not list or len(step) != 1:
                return
            yield step[0]

    def __next__(self) -> Any:
        step = self._ask("next", self)
        if type(step) is not list or len(step) != 1:
            raise StopIteration
        return step[0]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Handle) and other._number == self._number:
            return True
        if self._by_identity and not (isinstance(other, Handle) and not other._by_identity):
            return False
        raise self._no_verdict()

    def __hash__(self) -> int:
        return hash((Handle, self._number))

    def _no_verdict(self) -> Opaque:
        return Opaque(f"the program returned a {self._kind}, and a test compares it")

    def _unordered(self, _: object) -> NoReturn:
        raise self._no_verdict()

    __lt__ = __le__ = __gt__ = __ge__ = _unordered

    def __repr__(self) -> str:
        return f"<a {self._kind} of the program>"
