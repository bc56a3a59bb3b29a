"""Which part of a response is the program.  response -> source

Two sets of rules. "paper" keeps the body of one function and puts it under the prompt, as the official release did:
imports and helpers that the response wrote before it are lost. "default" keeps all that the response defines, and
leaves out what it only tries out: prints, its own asserts, doctest runs.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass

LONGEST = 200_000
"""Characters of a response that are looked at."""
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*$", re.M)
_OTHER_LANGUAGES = {"bash", "sh", "shell", "console", "text", "txt", "output", "json", "yaml", "c", "cpp", "java", "js"}
_BEGINS = re.compile(
    r"^[ \t]*(?:from\s+[\w.]+\s+import\b|import\s+\w|def\s+\w+\s*\(|async\s+def\b|class\s+\w+|@\w)", re.M
)
_TYPING = re.compile(
    r"\b(Any|Callable|Deque|Dict|FrozenSet|Iterable|Iterator|List|Optional|Sequence|Set|Tuple|Union)\b"
)
_IMPORT = re.compile(r"^(?:from[ \t]+[\w.]+[ \t]+import[ \t]+[^\n(]+|import[ \t]+[^\n]+)$", re.M)


@dataclass(frozen=True)
class Extracted:
    """A program, the rule that found it, and the function in it to be called."""

    source: str
    rule: str
    entry: str


@dataclass(frozen=True)
class Prompted:
    """A problem to the rules: its prompt (imports, helpers, signature, docstring) and the name of its function."""

    prompt: str
    entry: str


def body_only(response: str, entry: str) -> tuple[str, str]:
    """(body, rule) as the official release cuts it: the first of four places where a function's body may stand.

    fenced: from the line behind `def <entry>` to the closing fence. unfenced: from there to the first line that is not
    indented, but at least one line. other_name: the same for the first def of any name. whole: the reply, indented.
    """
    name = re.escape(entry)
    fenced = re.search(rf"```[^\n]*\n(?:(?!```).)*?^def {name}\b[^\n]*\n(.*?)\n?```", response, re.S | re.M)
    if fenced:
        return fenced[1], "fenced"
    for rule, any_of in (("unfenced", name), ("other_name", r"\w+")):
        found = re.search(rf"^\s*def {any_of}\b[^\n]*\n(.*?)(?:\n(?=\S)|\n?\Z)", response, re.S | re.M)
        if found:
            return found[1], rule
    return textwrap.indent(response, "    "), "whole"


def paper_program(response: str, problem: Prompted, completion: str | None) -> Extracted:
    """The prompt and the completion under it: the record's own where it has one."""
    body, rule = (completion, "completion") if completion is not None else body_only(response, problem.entry)
    return Extracted(problem.prompt + body, rule, problem.entry)


def default_program(response: str, problem: Prompted) -> Extracted | None:
    """The program of a response, or None where it has none.

    fenced: the last code block that defines the function, with what earlier blocks define; unfenced: code in plain
    text; other_name: code with one function of another name; body: the response goes on from the prompt.
    """
    text = response[:LONGEST].replace("\r\n", "\n")
    blocks = _blocks(text)
    chosen = _chosen(blocks, problem.entry)
    rule = "fenced"
    if chosen is None:
        bare = _bare_code(text) if not blocks else None
        chosen, rule = ([bare], "unfenced") if bare and _defines(bare, problem.entry) else (None, "unfenced")
    if chosen is not None:
        parts = [_kept(block) for block in chosen]
        return Extracted("\n\n".join([_before(problem), *parts]), rule, problem.entry)
    return _body(text, blocks, problem) or _other_name(blocks or [_bare_code(text) or ""], problem)


def setup_of(problem: Prompted) -> str:
    """What a prompt brings beside its function, for the tests: its imports, and helpers that it defines.

    A prompt that is no Python (a docstring cut off) gives its import lines.
    """
    tree = _parsed(f"{problem.prompt.rstrip()}\n    pass\n") or _parsed(problem.prompt)
    if tree is None:
        lines = [line for line in _IMPORT.findall(problem.prompt) if _parsed(line)]
        return "\n".join(["import typing", *map(_forgiving, lines)])
    kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == problem.entry)]
    return "\n".join(
        _forgiving(ast.unparse(node)) if isinstance(node, ast.Import | ast.ImportFrom) else ast.unparse(node)
        for node in kept
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    )


def _forgiving(line: str) -> str:
    # "from typing import int" in a prompt is the data's slip; it must not fail every program.
    return f"try:\n    {line}\nexcept ImportError:\n    pass"


def defined_names(source: str) -> list[str]:
    """The functions and classes that a source defines at its top level, in order; [] where it is no Python."""
    tree = _parsed(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds)] if tree else []


def _before(problem: Prompted) -> str:
    """What stands before the response's code: the prompt's imports and helpers, and the typing names that its signature
    uses without importing them, which responses copy with it."""
    missing = sorted(set(_TYPING.findall(problem.prompt)))
    imports = f"from typing import {', '.join(missing)}\n" if missing else ""
    return f"{imports}{setup_of(problem)}"


def _blocks(text: str) -> list[str]:
    """The code blocks of a response; the last may lack its closing fence. Blocks in other languages are left out."""
    found, begun = [], None
    for fence in _FENCE.finditer(text):
        if begun is None:
            begun = fence
        elif not fence[2] and fence[1][0] == begun[1][0]:
            found.append((begun[2].lower(), text[begun.end() + 1 : fence.start()]))
            begun = None
    if begun is not None:
        found.append((begun[2].lower(), text[begun.end() + 1 :]))
    return [textwrap.dedent(code) for language, code in found if language not in _OTHER_LANGUAGES]


def _chosen(blocks: list[str], entry: str) -> list[str] | None:
    """The last block that defines the function (one that is whole, if any), behind the definitions of those before."""
    having = [i for i, block in enumerate(blocks) if _defines(block, entry)]
    if not having:
        return None
    at = next((i for i in reversed(having) if _parsed(blocks[i])), having[-1])
    return [block for block in blocks[:at] if _parsed(block) and not _defines(block, entry)] + [blocks[at]]


def _defines(code: str, entry: str) -> bool:
    # Text first: a block with a syntax error is still the answer, and a wrong one.
    pattern = rf"^(?:async\s+)?def\s+{re.escape(entry)}\s*\(|^{re.escape(entry)}\s*(?::[^=\n]+)?=(?!=)"
    return re.search(pattern, code, re.M) is not None


def _bare_code(text: str) -> str | None:
    """Code that stands in plain text: from the first line that begins a definition, as far as it is Python."""
    begins = _BEGINS.search(text)
    if begins is None:
        return None
    lines = textwrap.dedent(text[begins.start() :].lstrip("\n")).split("\n")
    cuts = [i for i in range(1, len(lines)) if lines[i][:1].strip()]
    for end in [len(lines), *reversed(cuts[-200:])]:
        if _parsed("\n".join(lines[:end])):
            return "\n".join(lines[:end])
    return "\n".join(lines)


def _body(text: str, blocks: list[str], problem: Prompted) -> Extracted | None:
    """A response that goes on where the prompt ends, as a base model does."""
    for code in (*blocks, text):
        if _BEGINS.match(code.strip("\n")) or not code.strip():
            continue
        for candidate in (code, textwrap.indent(textwrap.dedent(code.strip("\n")), "    ")):
            source = problem.prompt.rstrip() + "\n" + candidate.rstrip() + "\n"
            tree = _parsed(source)
            if tree and re.search(r"\b(?:return|yield|print)\b", candidate):
                return Extracted(f"{_before(problem)}\n{source}", "body", problem.entry)
    return None


def _other_name(blocks: list[str], problem: Prompted) -> Extracted | None:
    for block in blocks:
        names = [name for name in defined_names(block) if not name.startswith("test")]
        if len(names) == 1:
            return Extracted(f"{_before(problem)}\n{_kept(block)}", "other_name", names[0])
    return None


def _kept(code: str) -> str:
    """A block without what only tries the function out. What is no Python stays as it is, to fail."""
    tree = _parsed(code)
    if tree is None:
        return code
    lines = code.split("\n")
    for node in reversed(tree.body):
        if _only_tries(node):
            lines[node.lineno - 1 : node.end_lineno] = []
    return "\n".join(lines)


def _only_tries(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If):
        return "__name__" in ast.unparse(node.test)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        return called in ("print", "unittest.main") or called.startswith("doctest.")
    return False


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
