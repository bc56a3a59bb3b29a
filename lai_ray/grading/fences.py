"""Code blocks of a text, as CommonMark has them, and fences that are glued to the code.  text -> blocks

Used by the graders of programs and by the parser of an instructor's programs.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([\w+#.-]*)([^\n`]*)")
_CODE_BEGINS = r"(?:async[ ]+def|def|class|from|import)[ ]|@\w"
_GLUED_OPENING = re.compile(rf"^([ \t]*(?:`{{3,}}|~{{3,}}))[ \t]*(python3?|py)?[ \t]*((?:{_CODE_BEGINS})[^\n]*)$", re.M)
_GLUED_CLOSING = re.compile(r"^([^`\n]+)(`{3,})[ \t]*$", re.M)
_MARKDOWN = {"markdown", "md"}
_PYTHON = {"python", "py", "python3"}
_OTHER_LANGUAGES = {
    "bash", "sh", "shell", "console", "terminal", "text", "txt", "plaintext", "output", "json", "yaml", "toml", "ini",
    "csv", "diff", "html", "xml", "css", "sql", "latex", "tex", "math", "mermaid", "pseudocode",
    "c", "cpp", "c++", "c#", "csharp", "java", "js", "javascript", "ts", "typescript", "go", "rust", "ruby", "php",
}  # fmt: skip


class Fence(NamedTuple):
    """A line of three or more backticks or tildes."""

    indent: int
    signs: str
    language: str
    """In small letters; "" for none."""
    alone: bool
    """Whether nothing is behind the signs: only then it can close a block."""


def fence(line: str) -> Fence | None:
    """The line as a fence; None where it is none."""
    match = _FENCE.fullmatch(line)
    if match is None:
        return None
    indent, signs, language, rest = match.groups()
    return Fence(len(indent.expandtabs(4)), signs, language.lower(), not language and not rest.strip())


def unglued(text: str) -> str:
    """The text with fences on lines of their own: "```def f():" and "return x```" lack a line break."""
    if "```" not in text and "~~~" not in text:
        return text
    return _GLUED_CLOSING.sub(_closed, _GLUED_OPENING.sub(_opened, text))


def _opened(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2] or ''}\n{match[3]}"


def _closed(match: re.Match[str]) -> str:
    return f"{match[1]}\n{match[2]}" if match[1].strip() else match[0]


def fences_alone(lines: Sequence[str]) -> list[int]:
    """The indices of the lines that may close a block."""
    return [i for i, line in enumerate(lines) if ("```" in line or "~~~" in line) and (f := fence(line)) and f.alone]


def closing(lines: Sequence[str], at: int, alone: Sequence[int] | None = None) -> int:
    """The index of the line that closes the block which line `at` opens; their number where none does.

    As CommonMark has it: as long, of the same sign, without text behind it, not indented as code. Where the code does
    not end there, as within a docstring, the first where it does; where Python does not parse up to there, the first
    line that begins like the closer and has whole code before it: "``` This doubles each". alone: `fences_alone` of
    these lines.
    """
    opening = fence(lines[at])
    assert opening is not None
    alone = fences_alone(lines) if alone is None else alone
    later = (alone[k] for k in range(bisect_right(alone, at), len(alone)))
    closers = (i for i in later if _closes(opening, lines[i]))
    possible = list(islice(closers, 1))
    first = "\n".join(lines[at + 1 : possible[0]]) if possible else ""
    if first.count('"""') % 2 or first.count("'''") % 2:
        for i in [*possible, *islice(closers, 5)]:
            if parsed(textwrap.dedent("\n".join(lines[at + 1 : i]))):
                return i
    end = possible[0] if possible else len(lines)
    loose = _loose_closing(opening, lines, at, end) if opening.language in _PYTHON else None
    return end if loose is None else loose


def _loose_closing(opening: Fence, lines: Sequence[str], at: int, end: int) -> int | None:
    """The first line before `end` that begins with the closer, has text behind it, and follows whole code."""
    begins = (i for i in range(at + 2, end) if lines[i].lstrip(" \t").startswith(opening.signs))
    for i in islice(begins, 5):
        code = textwrap.dedent("\n".join(lines[at + 1 : i]))
        if code.strip() and parsed(code) and not parsed(textwrap.dedent("\n".join(lines[at + 1 : end]))):
            return i
    return None


def _closes(opening: Fence, line: str) -> bool:
    if opening.signs[:3] not in line:
        return False
    other = fence(line)
    return (
        other is not None
        and other.alone
        and other.signs[0] == opening.signs[0]
        and len(other.signs) >= len(opening.signs)
        and other.indent <= opening.indent + 3
    )


def code_blocks(text: str, depth: int = 3) -> list[str]:
    """The code blocks of a text; the last may lack its closing fence. Blocks in other languages are omitted.

    depth: of blocks within blocks of Markdown.
    """
    found: list[str] = []
    lines = text.split("\n")
    alone = fences_alone(lines)
    at = 0
    while at < len(lines):
        opening = fence(lines[at])
        if opening is None:
            at += 1
            continue
        end = closing(lines, at, alone)
        inside = lines[at + 1 : end]
        if depth and (opening.language in _MARKDOWN or (not opening.language and any(map(_opens_python, inside)))):
            found += code_blocks("\n".join(inside), depth - 1)
        elif opening.language not in _OTHER_LANGUAGES:
            found.append(textwrap.dedent("\n".join(inside)))
        at = end + 1
    return found


def _opens_python(line: str) -> bool:
    nested = fence(line)
    return nested is not None and nested.language in _PYTHON


def parsed(code: str) -> ast.Module | None:
    """The syntax tree; None for what is no Python."""
    tree = _tree_or_error(code)
    return tree if isinstance(tree, ast.Module) else None


def fault_line(code: str) -> int | None:
    """The line, counted from 1, of the first syntax error; None where there is none, 0 where its place is unknown."""
    tree = _tree_or_error(code)
    if isinstance(tree, ast.Module):
        return None
    return (tree.lineno or 0) if isinstance(tree, SyntaxError) else 0


def _tree_or_error(code: str) -> ast.Module | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error
