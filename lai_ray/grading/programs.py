"""Extracts the program from a response.  response -> source

Two sets of rules. "paper" keeps the body of one function and appends it to the prompt, as the official release did:
imports and helpers that the response has before the function are lost. "default" keeps everything that the response
defines, and removes demonstrations: prints, its own asserts, doctest runs.
"""

from __future__ import annotations

import ast
import re
import textwrap
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from lai_ray.grading.answer_part import without_thoughts
from lai_ray.grading.fences import code_blocks, fault_line, fences_alone, parsed, unglued

MAX_CHARACTERS = 200_000
"""Of a response; the rest is not read."""
_MOST_PARSED = 400_000
"""Characters, in all attempts at finding where code in plain text ends."""
_FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import[ \t]+(?:\([^)]*\)|[^\n;]+)(?:;[ \t]*|\n)?", re.M)
_BEGINS = re.compile(
    r"^[ \t]*(?:from\s+[\w.]+\s+import\b|import\s+\w|def\s+\w+\s*\(|async\s+def\b|class\s+\w+|@\w)", re.M
)
_TYPING = re.compile(
    r"\b(Any|Callable|Deque|Dict|FrozenSet|Iterable|Iterator|List|Optional|Sequence|Set|Tuple|Union)\b"
)
_END_OF_TURN = re.compile(
    r"(?<![\"'])<\|(?:im_end|endoftext|end_of_text|eot_id|end_of_turn|eom_id)\|>(?![\"'])|</s>\s*\Z|<end_of_turn>\s*\Z"
)
_ASSIGNS = re.compile(r"[A-Za-z_]\w*(?:\s*:[^=\n]+)?\s*=(?!=)")
_YIELDS = re.compile(r"\b(?:return|yield|print)\b")
_IMPORT = re.compile(r"^(?:from[ \t]+[\w.]+[ \t]+import[ \t]+[^\n(]+|import[ \t]+[^\n]+)$", re.M)


@dataclass(frozen=True)
class Program:
    """The source of a program, the rule that found it, and the function in it that the tests call."""

    source: str
    rule: str
    entry: str


@dataclass(frozen=True)
class Prompted:
    """What the rules need of a problem: its prompt (imports, helpers, signature, docstring) and its function's name."""

    prompt: str
    entry: str


def body_only(response: str, entry: str) -> tuple[str, str]:
    """(body, rule), the function's body as the official release extracts it, by the first of four rules that matches.

    fenced: from the line after `def <entry>` to the closing fence. unfenced: from there to the first line that is not
    indented, but at least one line. other_name: the same for the first def of any name. whole: the reply, indented.
    """
    name = re.escape(entry)
    fenced = re.search(rf"```[^\n]*\n(?:(?!```).)*?^def {name}\b[^\n]*\n(.*?)\n?```", response, re.S | re.M)
    if fenced:
        return fenced[1], "fenced"
    for rule, any_of in (("unfenced", name), ("other_name", r"\w+")):
        match = re.search(rf"^\s*def {any_of}\b[^\n]*\n(.*?)(?:\n(?=\S)|\n?\Z)", response, re.S | re.M)
        if match:
            return match[1], rule
    return textwrap.indent(response, "    "), "whole"


def paper_program(response: str, problem: Prompted, completion: str | None) -> Program:
    """The prompt followed by the completion: the recorded one where there is one."""
    body, rule = (completion, "completion") if completion is not None else body_only(response, problem.entry)
    return Program(problem.prompt + body, rule, problem.entry)


def default_program(response: str, problem: Prompted) -> Program | None:
    """The program of a response, or None where it has none.

    fenced: the last code block that defines the function, with what earlier blocks define; unfenced: code in plain
    text; other_name: code with one function of another name; body: the response continues the prompt.
    """
    answer = without_thoughts(response[:MAX_CHARACTERS].replace("\r\n", "\n"))
    if answer is None:
        return None
    text = unglued(_END_OF_TURN.split(answer, maxsplit=1)[0])
    blocks = _without_prose_behind(code_blocks(text), text, problem.entry)
    chosen = _chosen(blocks, problem.entry)
    rule, bare = "fenced", None
    if chosen is None:
        bare = _bare_code(text)
        chosen, rule = ([bare], "unfenced") if bare and _defines(bare, problem.entry) else (None, "unfenced")
    if chosen is not None:
        own = next((i for i, block in enumerate(chosen) if _defines(block, problem.entry)), 0)
        parts = [_kept(block, problem.entry if i < own else "") for i, block in enumerate(chosen)]
        return Program(_future_first("\n\n".join([_before(problem), *parts])), rule, problem.entry)
    return _body(text, blocks, problem) or _other_name(blocks or [bare or ""], problem)


def setup_of(problem: Prompted) -> str:
    """The source of a prompt's imports and helpers, without its function; the tests need it.

    Of a prompt that is no Python (a docstring cut off), its import lines.
    """
    tree = parsed(f"{problem.prompt.rstrip()}\n    pass\n") or parsed(problem.prompt)
    if tree is None:
        lines = [line for line in _IMPORT.findall(problem.prompt) if parsed(line)]
        return "\n".join(["import typing", *map(_optional_import, lines)])
    kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == problem.entry)]
    return "\n".join(
        _optional_import(ast.unparse(node)) if isinstance(node, ast.Import | ast.ImportFrom) else ast.unparse(node)
        for node in kept
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    )


def _optional_import(line: str) -> str:
    if line.startswith("from __future__"):
        return line
    # "from typing import int" in a prompt is an error of the data; it must not fail every program.
    return f"try:\n    {line}\nexcept ImportError:\n    pass"


def defined_names(source: str) -> list[str]:
    """The top-level functions and classes of a source, in order; [] where it is no Python."""
    tree = parsed(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds)] if tree else []


def _before(problem: Prompted) -> str:
    """The source before the response's code: the prompt's imports and helpers, and imports of the typing names that its
    signature uses without importing them, since responses copy the signature."""
    missing = sorted(set(_TYPING.findall(problem.prompt)))
    imports = f"from typing import {', '.join(missing)}\n" if missing else ""
    return f"{imports}{setup_of(problem)}"


def _future_first(source: str) -> str:
    """The source with its imports from __future__ first, where alone Python allows them."""
    if "__future__" not in source:
        return source
    imports = [line.strip().rstrip(";") for line in _FUTURE.findall(source)]
    return "\n".join([*imports, _FUTURE.sub("", source)])


def _chosen(blocks: list[str], entry: str) -> list[str] | None:
    """The last block that defines the function (that parses, if any does), between earlier blocks that do not, and the
    later ones that hold only definitions which it uses."""
    having = [i for i, block in enumerate(blocks) if _defines(block, entry)]
    if not having:
        return None
    at = next((i for i in reversed(having) if parsed(blocks[i])), having[-1])
    before = [block for block in blocks[:at] if parsed(block) and not _defines(block, entry)]
    after = [block for block in blocks[at + 1 :] if not _defines(block, entry) and _helps(block, blocks[at])]
    return [*before, blocks[at], *after]


def _helps(block: str, code: str) -> bool:
    names = [name for name in defined_names(block) if re.search(rf"\b{re.escape(name)}\b", code)]
    return bool(names) and not any(re.search(rf"^(?:def|class)\s+{re.escape(name)}\b", code, re.M) for name in names)


def _defines(code: str, entry: str) -> bool:
    # By text, not by parsing: a block with a syntax error is still the answer, and a wrong one.
    pattern = rf"^(?:async\s+)?def\s+{re.escape(entry)}\s*\(|^{re.escape(entry)}\s*(?::[^=\n]+)?=(?!=)"
    return re.search(pattern, code, re.M) is not None


def _bare_code(text: str) -> str | None:
    """Code in plain text: from the first line that begins a definition, as far as it parses."""
    begins = _BEGINS.search(text)
    if begins is None:
        return None
    return _as_far_as_it_parses(_outdented(text[_start(text, begins.start()) :].lstrip("\n")))


def _start(text: str, at: int) -> int:
    """Where code begins: at the assignments right before its first definition, "N = 2", if there are any."""
    start = at
    for line in reversed(text[:at].splitlines(keepends=True)[-20:]):
        at -= len(line)
        if _ASSIGNS.match(line) and parsed(line):
            start = at
        elif line.strip() and not line.startswith("#"):
            break
    return start


def _without_prose_behind(blocks: list[str], text: str, entry: str) -> list[str]:
    """The blocks; the last, where no fence closes it, only as far as it parses: prose follows the code."""
    last = text.rstrip().rpartition("\n")[2].strip()
    if not blocks or parsed(blocks[-1]) or fences_alone([last]) or not blocks[-1].rstrip().endswith(last):
        return blocks
    whole = _as_far_as_it_parses(blocks[-1])
    return [*blocks[:-1], whole] if parsed(whole) and _defines(whole, entry) else blocks


def _as_far_as_it_parses(text: str) -> str:
    """The code up to the last line without indentation before which it parses; all of it where there is none."""
    lines = text.split("\n")
    cuts = [i for i in range(1, len(lines)) if lines[i][:1].strip()]
    end, budget = len(lines), _MOST_PARSED
    while end:
        source = "\n".join(lines[:end])
        budget -= len(source) + 1_000
        fault = fault_line(source)
        if fault is None:
            return source
        # What precedes the fault may be whole; nothing that contains it is.
        cuts = cuts[: bisect_left(cuts, min(fault, end))]
        if not cuts or budget < 0:
            break
        end = cuts[-1]
    return "\n".join(lines)


def _outdented(text: str) -> str:
    """The text without the indentation of its first line, as far as its lines have it: code is often indented by four
    spaces within prose."""
    indent = len(text) - len(text.lstrip(" \t"))
    if not indent:
        return text
    lines = text.split("\n")
    end = next((i for i, line in enumerate(lines) if line.strip() and line[:indent].strip()), len(lines))
    return "\n".join([*(line[indent:] for line in lines[:end]), *lines[end:]])


def _body(text: str, blocks: list[str], problem: Prompted) -> Program | None:
    """A response that continues the prompt, as a base model does."""
    for bare in (part for code in (*blocks, text) if _YIELDS.search(code) for part in _possible_bodies(code)):
        # Indented as a whole, as it is, and with only the first line's indentation lost.
        for candidate in (textwrap.indent(textwrap.dedent(bare), "    "), bare, f"    {bare.lstrip()}"):
            source = problem.prompt.rstrip() + "\n" + candidate.rstrip() + "\n"
            tree = parsed(source)
            if tree and not _returns_outside(tree):
                return Program(_future_first(f"{_before(problem)}\n{_kept(source)}"), "body", problem.entry)
    return None


def _possible_bodies(code: str) -> Iterator[str]:
    """A text that may be a function's body: all of it, what precedes a fence, and its first lines that are indented."""
    lines = code.strip("\n").split("\n")
    ends = [len(lines), next((i for i, line in enumerate(lines) if line.lstrip().startswith("```")), 0)]
    if lines[0][:1].isspace():
        ends.append(next((i for i, line in enumerate(lines) if line[:1].strip()), 0))
    for end in dict.fromkeys(ends):
        part = "\n".join(lines[:end])
        tree = parsed(textwrap.dedent(part)) if _BEGINS.match(part) else None
        # A definition or an import begins a body only where a `return` follows that is its own.
        if part.strip() and (not _BEGINS.match(part) or (tree and _returns_outside(tree))):
            yield part


def _returns_outside(tree: ast.Module) -> bool:
    """Whether it has a `return` outside every function, which parses and does not compile."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    outside = (node for node in tree.body if not isinstance(node, functions))
    return any(isinstance(node, ast.Return) for top in outside for node in ast.walk(top))


def _other_name(blocks: list[str], problem: Prompted) -> Program | None:
    for block in blocks:
        names = [name for name in defined_names(block) if not name.startswith("test")]
        if len(names) == 1:
            return Program(_future_first(f"{_before(problem)}\n{_kept(block)}"), "other_name", names[0])
    return None


def _kept(code: str, entry: str = "") -> str:
    """A block without demonstrations. What does not parse stays unchanged, and fails.

    entry: of a block before the function's, so that its statements with this function cannot run yet.
    """
    tree = parsed(code)
    if tree is None:
        return code
    lines = code.split("\n")
    for node in reversed(tree.body):
        if _demonstrates(node) or (entry and _shows(node, entry)):
            lines[node.lineno - 1 : node.end_lineno] = []
    return "\n".join(lines)


def _shows(node: ast.stmt, entry: str) -> bool:
    """Whether a statement only shows a value, or a use of the function: "[2, 4]", "result = twice([1])"."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
        return True
    return any(isinstance(part, ast.Name) and part.id == entry for part in ast.walk(node))


def _demonstrates(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If):
        return "__name__" in ast.unparse(node.test)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        return called in ("print", "unittest.main") or called.startswith("doctest.")
    return False
