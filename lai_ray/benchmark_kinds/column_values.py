"""Values of columns that lists and objects have become on their way through a table.  value -> value"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from lai_ray.errors import DataError

_ARRAY = re.compile(r"\barray\((\[[^\[\]]*\])(?:,\s*dtype=[\w.'\"<>]+)?\)")
_VALUES = {tokenize.STRING, tokenize.NUMBER}
_SKIPPED = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def is_missing(value: Any) -> bool:
    """None, NaN or an empty text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def unpacked(value: Any) -> Any:
    """The list or object that a text writes as JSON, Python or numpy does; any other value as it is.

    `["a", "b"]` is json.dumps, `['a', 'b']` what pandas and csv write of a list, `['a' 'b']` of a numpy array. Raises
    DataError, without the column's name, for an array that numpy has shortened.
    """
    if not isinstance(value, str) or not re.match(r"\s*(?:[\[{(]|array\()", value):
        return value
    for read in (json.loads, _literal):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(found, list | tuple | dict):
            return list(found) if isinstance(found, tuple) else found
    return value


def _literal(text: str) -> Any:
    found = ast.literal_eval("".join(_with_commas(_ARRAY.sub(r"\1", text))))
    if isinstance(found, list) and ... in found:
        raise DataError(f"holds a list that numpy has shortened: {text[:60]!r}; write the file with whole lists")
    return found


def _with_commas(text: str) -> Iterator[str]:
    """The tokens of a literal, with the commas between values that numpy leaves out."""
    before = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _SKIPPED:
            continue
        value = token.type in _VALUES or token.string in ("None", "True", "False", "nan", "...")
        yield f"{',' if value and before else ''} {'None' if token.string == 'nan' else token.string}"
        before = value


_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip


def of_conversation(value: Any, of: str, column: str) -> Any:
    """What one side says in a conversation, as {"role", "content"} or {"from", "value"}; another value as it is.

    of: "user" (after what the system says, if it does) or "assistant". Raises DataError where the user or the
    assistant speaks more than once, or the wanted side never does.
    """
    turns = _turns(value)
    if turns is None:
        return value
    texts = {role: [text for who, text in turns if who == role] for role in ("system", "user", "assistant")}
    if len(texts["user"]) > 1 or len(texts["assistant"]) > 1:
        raise DataError(
            f"column {column!r} holds a conversation of {len(turns)} turns, and a row is one question with its "
            "answer: write each question with its answer as a row of its own"
        )
    if not texts[of]:
        raise DataError(f"column {column!r} holds a conversation in which the {of} says nothing")
    return "\n\n".join([*(texts["system"] if of == "user" else []), *texts[of]])


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """(role, text) of each turn; None for what is no conversation."""
    turns = unpacked(value) if isinstance(value, str) and value.startswith("[{") else value
    if not isinstance(turns, list) or not turns:
        return None
    found = []
    for turn in turns:
        role, text = _turn(turn) if isinstance(turn, dict) else ("", None)
        if role not in _ROLES or not isinstance(text, str):
            return None
        found.append((_ROLES[role], text))
    return found


def _turn(turn: dict[str, Any]) -> tuple[str, Any]:
    names = ("role", "content") if "role" in turn else ("from", "value")
    text = turn.get(names[1])
    if isinstance(text, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in text):
        text = "\n".join(part["text"] for part in text)  # Content in parts.
    return str(turn.get(names[0])).lower(), text
