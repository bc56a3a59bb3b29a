"""Reads the closed objects of JSON as models write it.  text -> objects

Accepted beyond JSON: other text around it, single quotes, trailing commas, comments, line breaks and unescaped quotes
within a string, and LaTeX with single backslashes ("\\times" is no tab). An object that never closes gives nothing, so
that a reply that was cut off gives no half sample. One pass: linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_CLOSES = r"(?=\s{0,99}(?:[,:}\]]|//|$))"
_STRINGS = {
    sign: re.compile(rf"{sign}((?:[^{sign}\\]++|\\.|{sign}(?!\s{{0,99}}[,:}}\]]))*+){sign}{_CLOSES}", re.S)
    for sign in "\"'"
}
_BLANK = re.compile(r"(?:\s++|//[^\n]*+|/\*[^*]{0,300}\*/)*+")
_WORD = re.compile(r"[A-Za-z_]\w{0,40}")
_LONGEST_KEY = 99
_KEY = re.compile(r"""("[^"\n]{1,90}"|'[^'\n]{1,90}')\s{0,9}:|([A-Za-z_]\w{0,40})\s{0,9}:""")
_NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?")
_ESCAPE = re.compile(
    r"\\(?:(?P<latex>(?:[bf](?=[a-z])|t(?=imes|ext|heta|an\b|frac|riangle|herefore)|n(?=eq|abla)|r(?=ight|ho\b|angle|ceil|"
    r"floor))|(?![\"'\\/bfnrtu\n]).)|u(?P<code>[0-9a-fA-F]{4})|(?P<plain>.))",
    re.S,
)
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"true": "true", "false": "false", "True": "true", "False": "false", "null": "", "None": ""}
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


@dataclass(frozen=True)
class Objects:
    """The objects that were taken, in order; the characters that they take; whether the text ends inside one."""

    taken: list[dict[str, Any]]
    size: int
    cut: bool


@dataclass
class _Open:
    """A container that is being read."""

    value: dict[str, Any] | list[Any]
    start: int
    before: int
    """Objects taken before it."""
    key: str | None = None
    quoted: bool = True
    """Whether its keys are."""
    ready: bool = True
    """Whether a member may follow: at the start and after a comma."""


@dataclass
class _Reader:
    text: str
    wanted: Callable[[dict[str, Any]], bool]
    taken: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)

    def read(self) -> Objects:
        at = 0
        while at >= 0:
            if not self.stack:
                at = self.text.find("{", at)
                if at < 0:
                    break
                at = self._open(at)
                continue
            at = _BLANK.match(self.text, at).end()  # type: ignore[union-attr]
            if at >= len(self.text):
                break
            after = self._step(at)
            if after is None:  # No JSON here: what was read and closed before is kept.
                self.stack.clear()
            at = after or at + (self.text[at] != "{")
        return Objects([value for value, _ in self.taken], sum(size for _, size in self.taken), bool(self.stack))

    def _open(self, at: int) -> int:
        value: dict[str, Any] | list[Any] = {} if self.text[at] == "{" else []
        self.stack.append(_Open(value, at, len(self.taken)))
        return at + 1

    def _step(self, at: int) -> int | None:
        """Reads one token; None where none is allowed, or a string never closes."""
        top, sign = self.stack[-1], self.text[at]
        if sign in "}]":
            return self._close(top, at) if (sign == "}") == isinstance(top.value, dict) and top.key is None else None
        if sign == ",":
            allowed, top.ready = not top.ready, True
            return at + 1 if allowed else None
        if not top.ready:
            return None
        if isinstance(top.value, dict) and top.key is None:
            return self._key(top, at)
        return self._open(at) if sign in "{[" else self._scalar(top, at)

    def _key(self, top: _Open, at: int) -> int | None:
        match = _KEY.match(self.text, at)
        if match is None:
            return None if len(self.text) - at > _LONGEST_KEY else len(self.text)  # Cut off within the key.
        quoted = match[1] is not None
        if top.value and quoted != top.quoted:
            return None
        top.key, top.quoted = (_unescaped(match[1][1:-1]) if quoted else match[2]), quoted
        return match.end()

    def _scalar(self, top: _Open, at: int) -> int | None:
        sign = self.text[at]
        if sign in _STRINGS:
            match = _STRINGS[sign].match(self.text, at)
            if match is None:
                return len(self.text)  # It never closes.
            _add(top, _unescaped(match[1]))
            return match.end()
        match = _NUMBER.match(self.text, at) or _WORD.match(self.text, at)
        if match is None or not (match[0][0] in "-0123456789" or match[0] in _LITERALS):
            return None
        _add(top, _LITERALS.get(match[0], match[0]))
        return match.end()

    def _close(self, top: _Open, at: int) -> int:
        self.stack.pop()
        if isinstance(top.value, dict) and self.wanted(top.value):
            del self.taken[top.before :]
            self.taken.append((top.value, at + 1 - top.start))
        if self.stack:
            _add(self.stack[-1], top.value)
        return at + 1


def _add(top: _Open, value: Any) -> None:
    if isinstance(top.value, dict):
        top.value.setdefault(str(top.key), value)
        top.key = None
    else:
        top.value.append(value)
    top.ready = False


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)
    return _SURROGATES.sub(lambda m: m[0].encode("utf-16", "surrogatepass").decode("utf-16"), plain)


def _character(match: re.Match[str]) -> str:
    if match["latex"]:
        return match[0]
    if match["code"]:
        return chr(int(match["code"], 16))
    return _PLAIN.get(match["plain"], match["plain"])


def objects(text: str, wanted: Callable[[dict[str, Any]], bool]) -> Objects:
    """The outermost closed objects that are `wanted`, at any depth. Numbers are texts as written, null is ""; of a key
    given twice the first counts."""
    return _Reader(text, wanted).read()
