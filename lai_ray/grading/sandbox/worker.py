"""The two processes of one trial: the program answers calls, the tests make them and return the verdict.

Neither trusts the other. The program's process never holds a test or an expected answer; the tests' process runs no
line of the program and accepts only plain values from it. Only the tests' process holds the pipe for the verdict.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from lai_ray.grading.sandbox.protocol import Gone, Handle, Opaque, ProgramError, Reader, TooLarge, Writer, receive, send

_LONGEST_NOTE = 300
_FROM_THE_PROGRAM = "_from_the_program"
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, args, kwargs: target(*args, **kwargs),
    "attribute": getattr,
    "set": setattr,
    "item": operator.getitem,
    "len": len,
    "truth": bool,
    "iter": iter,
    "next": lambda target: list(itertools.islice(target, 1)),
}
"""What the tests may do with a value that stayed in the program's process; "next" returns [item], or [] at the end."""


def read_all(fd: int) -> str:
    """The whole text behind a file descriptor, from its start; closes it."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "surrogatepass")


class ProgramSide:
    """The program's side: runs the source once, then serves requests until the other side closes the channel."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.kept: list[Any] = []
        self.names: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
        self.reader = Reader(self._resolve)

    def serve(self, source: str) -> None:
        """Never returns: the fork server kills the process, or the program ends it."""
        try:
            exec(compile(source, "<program>", "exec", dont_inherit=True), self.names)
        except BaseException as error:
            self._send({"raised": _described(error)})
        else:
            self._send({"value": None})
        while True:
            self._send(self._answer(receive(self.channel)))

    def _send(self, message: dict[str, Any]) -> None:
        # Buffered output would be lost when this process is killed.
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        try:
            send(self.channel, message)
        except TooLarge as error:
            send(self.channel, {"too_large": str(error)})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            arguments = [self.reader.read(item) for item in request["arguments"]]
            operation = self._call_name if request["do"] == "name" else _OPERATIONS[request["do"]]
            value = operation(*arguments)
            return {"value": Writer(self._keep).write(value)}
        except TooLarge as error:
            return {"too_large": str(error)}
        except BaseException as error:
            return {"raised": _described(error)}

    def _call_name(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name not in self.names:
            raise NameError(f"name {name!r} is not defined")
        return self.names[name](*args, **kwargs)

    def _keep(self, value: Any) -> Any:
        self.kept.append(value)
        kind: Any = type(value)
        return {"handle": [len(self.kept) - 1, kind.__name__[:80], kind.__eq__ is object.__eq__]}

    def _resolve(self, content: Any) -> Any:
        """The object behind a handle: a value kept here, or a proxy of a function of the tests."""
        if isinstance(content, int):
            return self.kept[content]
        number = content[0]

        def callback(*args: Any, **kwargs: Any) -> Any:
            send(self.channel, {"callback": number, "arguments": Writer(self._keep).write([list(args), kwargs])})
            answer = receive(self.channel)
            if "raised" in answer:
                raise RuntimeError(answer["raised"][1])
            return self.reader.read(answer["value"])

        return callback


class TestsSide:
    """The tests' side: calls the program and returns whether it passed."""

    __test__ = False

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.lent: list[Callable[..., Any]] = []
        self.reader = Reader(self._handle)

    def verdict(self, spec: dict[str, Any]) -> dict[str, str]:
        """{"verdict": "passed" | "failed" | "error", "note": why}.

        spec: `setup` and `tests` (source), `entry` (the function under test), `names` (other names that the tests take
        from the program), `check` (whether the tests define check(candidate), to be called).
        """
        space: dict[str, Any] = {"__name__": "tests"}
        try:
            setup, tests = (compile(spec[part], f"<{part}>", "exec", dont_inherit=True) for part in ("setup", "tests"))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            return _verdict("error", f"the tests cannot be run: {type(error).__name__}: {error}")
        try:
            self._receive()  # Raises what running the source raised.
            exec(setup, space)
            space |= {name: self._stub(name) for name in (*spec["names"], spec["entry"])}
            exec(tests, space)
            if spec["check"]:
                space["check"](space[spec["entry"]])
        except AssertionError as error:
            return _verdict("failed", f"a test does not hold {error}".rstrip())
        except ProgramError as error:
            return _verdict("failed", str(error))
        except (Opaque, TooLarge) as error:
            return _verdict("error", str(error))
        except Gone as error:
            return _verdict("failed", f"the program ended early: {error}")
        except (MemoryError, NameError) as error:
            why = f"{type(error).__name__}: {error}"
            if getattr(error, _FROM_THE_PROGRAM, False):
                return _verdict("failed", why)
            return _verdict("error", f"the tests cannot be run: {why}")
        except BaseException as error:
            return _verdict("failed", f"{type(error).__name__}: {error}")
        return _verdict("passed", "")

    def _stub(self, name: str) -> Callable[..., Any]:
        def stub(*args: Any, **kwargs: Any) -> Any:
            return self._ask("name", name, list(args), kwargs)

        return stub

    def _ask(self, what: str, *arguments: Any) -> Any:
        written = [Writer(self._lend).write(argument) for argument in arguments]
        send(self.channel, {"do": what, "arguments": written})
        return self._receive()

    def _receive(self) -> Any:
        """The program's answer; until it comes, the program's calls of functions of the tests are served."""
        while True:
            answer = receive(self.channel)
            if "callback" in answer:
                send(self.channel, self._called_back(answer))
            elif "raised" in answer:
                raise _as_raised(answer["raised"])
            elif "too_large" in answer:
                raise TooLarge(f"the program returned too large a value: {str(answer['too_large'])[:80]}")
            elif "value" in answer:
                return self.reader.read(answer["value"])
            else:
                raise Gone("a malformed frame")

    def _called_back(self, answer: dict[str, Any]) -> dict[str, Any]:
        try:
            args, kwargs = self.reader.read(answer["arguments"])
            return {"value": Writer(self._lend).write(self.lent[answer["callback"]](*args, **kwargs))}
        except Exception as error:
            return {"raised": _described(error)}

    def _lend(self, value: Any) -> Any:
        if isinstance(value, Handle):
            return {"handle": value._number}
        if not callable(value):
            if hasattr(value, "__iter__"):  # A generator as an argument.
                return [Writer(self._lend).write(item) for item in value]
            raise TypeError(f"a test passes a {type(value).__name__}, which cannot be sent to the program")
        self.lent.append(value)
        return {"handle": [len(self.lent) - 1]}

    def _handle(self, content: Any) -> Handle:
        number, kind, by_identity = content
        if type(number) is not int or type(kind) is not str:
            raise ValueError("no handle")
        return Handle(number, kind[:80], by_identity is True, self._ask)


def _described(error: BaseException) -> list[str]:
    name = type(error).__name__
    try:
        text = str(error)[:_LONGEST_NOTE]
    except BaseException:
        text = ""
    return [name, text if isinstance(text, str) else ""]


def _as_raised(described: Any) -> Exception:
    """The program's exception as the built-in one of that name, so that a test may expect it.

    Never AssertionError (only tests may raise it), StopIteration (it would end a test's loop early), or a class that is
    no Exception.
    """
    if not (isinstance(described, list) and len(described) == 2 and all(isinstance(part, str) for part in described)):
        raise Gone("a malformed frame")
    name, text = described
    kind = getattr(builtins, name, None)
    usable = isinstance(kind, type) and issubclass(kind, Exception) and kind not in _NEVER
    if usable and kind is not None:
        with contextlib.suppress(TypeError, AttributeError):
            raised: Exception = kind(text)
            setattr(raised, _FROM_THE_PROGRAM, True)
            return raised
    return ProgramError(f"{name}: {text}")


_NEVER = (AssertionError, StopIteration, StopAsyncIteration)


def _verdict(verdict: str, note: str) -> dict[str, str]:
    return {"verdict": verdict, "note": note.encode("utf-8", "replace").decode()[:_LONGEST_NOTE]}
