"""The first exception's own words, out of what the frameworks make of it.  an error, its logs -> one line

Ray reports that an actor died, vLLM that its engine core did not start, Ray Train that a worker group failed. What
happened stands in the error's cause, in the text of its traceback, or in the log of the process that died. The only
place where errors of Ray, vLLM and DeepSpeed are put into words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lai_ray.common import search_path

MOST = 600
"""Characters of an error's words."""
TAIL = 1 << 18
"""Bytes at the end of a log that are read."""
WRAPPING = re.compile(
    r"see (the )?(root cause|stack trace)|root cause above|Engine core initialization failed|background process"
    r"|timed out during startup|EngineDeadError|worker process has died",
    re.IGNORECASE,
)
"""In the words of an error that only points to another one."""
NOISE = re.compile(r"For further information visit|Compile with|For debugging consider|CUDA kernel errors|\[type=")
_BEGIN = re.compile(r"Traceback \(most recent call last\):|ray::\S+\(\)")
_PREFIX = re.compile(r"^(?:\x1b\[[\d;]*m)*(?:\([^()]*pid=\d+[^()]*\) ?)?(?:\x1b\[[\d;]*m)*(?:ERROR [^\]]*\] ?)?")
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:: \S|$)")
_NEXT = re.compile(r"\d|\[|INFO|WARNING|DEBUG|Process |The above|During")
_FATAL = re.compile(r"Check failed: (?:\S+\.has_value\(\) )?(.+)")


def words(error: BaseException) -> str:
    """ "ValueError: no space left", of the first error in a chain; out of the traceback's text where only that is left.

    Source lines and advice about debugging are left out; several lines become one.
    """
    chain = [each for each in chain_of(error) if str(each).strip()]
    if not chain:
        return f"{type(error).__name__}: no message"
    first = chain[-1]
    if raised := first_raised(str(first)):
        return raised
    return f"{type(first).__name__}: {_exit_detail(str(first)) or in_short(str(first))}"


def words_or_log(error: BaseException, logs: Iterator[Path] | list[Path]) -> str:
    """The same, or the first error in these logs where an error only points to another one."""
    first = words(error)
    if WRAPPING.search(first) or WRAPPING.search(str(error)):
        for log in logs:
            if found := first_raised(tail(log)):
                return f"{found} ({log.name})"
    return first


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, outermost first; Ray keeps a worker's own error in `cause`."""
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__


def first_raised(text: str) -> str | None:
    """The exception that the first traceback in a text ends with, its message in short; None without a traceback.

    Of exceptions that caused each other Python prints the first one first. One that only points to another is passed
    over where there is another.
    """
    raised = list(_raised(text))
    return next((each for each in raised if not WRAPPING.search(each)), raised[0] if raised else None)


def _raised(text: str) -> Iterator[str]:
    """What every traceback in a text ends with, and what a check in Ray's own code found."""
    lines = [_PREFIX.sub("", line) for line in text.splitlines()]
    inside = False
    for i, line in enumerate(lines):
        if _BEGIN.search(line):
            inside = True
        elif inside and _RAISED.match(line):
            inside = False
            yield in_short("\n".join([line, *_until_traceback(lines[i + 1 :])]))
        elif fatal := _FATAL.search(line):
            yield fatal[1].strip()


def _until_traceback(lines: list[str]) -> Iterator[str]:
    """The further lines of a message: up to an empty one, or what a log says next."""
    for line in lines[:4]:
        if not line.strip() or _BEGIN.search(line) or _NEXT.match(line):
            return
        yield line


def in_short(text: str) -> str:
    """A message in one line of at most MOST characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("File ")]
    kept = [NOISE.split(line)[0].strip() for line in lines]
    line = " ".join(part for part in kept if part) or " ".join(lines)
    return line if len(line) <= MOST else f"{line[:MOST]}…"


def tail(log: Path) -> str:
    """The end of a log; "" where it cannot be read."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.path.getsize(log) - TAIL))
        return file.read().decode(errors="replace")
    return ""


def own_log() -> list[Path]:
    """The file that this process's errors go to; none where that is no file."""
    with suppress(OSError):
        path = Path(os.readlink("/proc/self/fd/2"))
        return [path] if path.is_file() else []
    return []


def of_death(error: BaseException, logs: str | None) -> str:
    """Why a process died, with a leading colon: the first error in its log, or Ray's word; "" where it is unknown."""
    text = str(error)
    if pid := re.search(r"pid[:=] ?(\d+)", text):
        for log in Path(logs).glob(f"*-{pid[1]}.log") if logs else ():
            if found := first_raised(tail(log)):
                return f": {found} ({log})"
    if "running low on memory" in text:
        return ": " + in_short(text.strip().splitlines()[0]).rstrip(".")
    detail = _exit_detail(text)
    return f": {detail}" if detail else ""


def _exit_detail(text: str) -> str:
    """Ray's reason for the end of a worker, without its list of guesses."""
    found = re.search(r"exit detail: (.+?)(?: There are some potential|\n|$)", text)
    return found[1].rstrip(". ") if found else ""


def suspects() -> str:
    """The files that hide installed modules from child processes, as a sentence; "" where none does."""
    found = [f"{path} hides the module {name!r}" for path, name in search_path.hiding()]
    return f" First look at PYTHONPATH: {', '.join(found[:3])}." if found else ""
