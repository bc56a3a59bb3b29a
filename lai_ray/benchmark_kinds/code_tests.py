"""Reads the tests of one row: asserts, doctests, unittest or pytest, as a list or as a text.  column's value -> Tests

What is read runs when it is executed from top to bottom: calls of test functions and cases are added where the row
leaves them to a test runner, and the runner's own calls are removed.
"""

from __future__ import annotations

import ast
import doctest
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lai_ray.benchmark_kinds.column_values import is_missing, unpacked
from lai_ray.errors import DataError

_RUNNERS = ("unittest.main", "pytest.main", "doctest.testmod")
_FENCED = re.compile(r"\s*```\w*\n(.*?)\n\s*```\s*", re.S)


@dataclass(frozen=True)
class Tests:
    """The tests of one row."""

    __test__ = False

    parts: tuple[str, ...]
    """Statements, each of which is Python by itself."""
    check: bool
    """Whether they define check(candidate), which has to be called."""

    @property
    def source(self) -> str:
        """All of them."""
        return "\n".join(self.parts)


def read_tests(value: Any) -> Tests:
    """The tests in a column's value. Raises DataError, without the column's name, for what cannot be read as tests."""
    found = unpacked(value)
    if is_missing(found) or found == []:
        raise DataError("is empty")
    read = _of_list(found) if isinstance(found, list) else _of_text(_text(found))
    parts = [part for part in read if part.strip()]
    tree = parsed("\n".join(parts))
    if tree is None or not any(map(_judges, ast.walk(tree))):
        raise DataError(f"has no assert: {found!r:.60}; write each test as `assert name(1) == 2`")
    check = _function(tree, "check")
    alone = check is not None and len(check.args.args) == 1 and not _mentioned("check", tree)
    return Tests(tuple(parts), alone)


def unfenced(text: str) -> str:
    """The code of a text that is one code block of Markdown; another text as it is."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced and "```" not in fenced[1] else text


def parsed(source: str) -> ast.Module | None:
    """Its syntax tree; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise DataError(f"holds no tests but a {type(value).__name__}: {value!r:.60}; name a column with asserts")


def _of_list(items: list[Any]) -> list[str]:
    """Each item is one test or more; or all are the lines of one."""
    texts = [_text(item) for item in items if not is_missing(item)]
    if not texts:
        raise DataError("is empty")
    if all(parsed(text.strip()) or ">>>" in text for text in texts):
        return ["\n".join(_of_text(text)) for text in texts]
    return _of_text("\n".join(texts))


def _of_text(text: str) -> list[str]:
    source = textwrap.dedent(unfenced(text).replace("\r\n", "\n")).strip()
    tree = parsed(source)
    if tree is not None and not (">>>" in source and all(map(_is_text, tree.body))):
        return list(_runnable(source, tree))
    lines = [line.strip() for line in source.split("\n") if line.strip()]
    if all(map(parsed, lines)):  # Indented as the lines of a list may be.
        return lines
    if ">>>" in source:
        return list(_of_doctest(str(ast.literal_eval(source)) if tree and len(tree.body) == 1 else source))
    raise DataError(f"holds no Python ({_fault(source)}); write each test as `assert name(1) == 2`")


def _fault(source: str) -> str:
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}: {(error.text or '').strip()!r:.60}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return "nothing but text"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _of_doctest(text: str) -> Iterator[str]:
    """Each example as an assert; one without a result as the statement that it is."""
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError as error:
        raise DataError(f"holds a doctest that cannot be read ({error})") from error
    for example in examples:
        source, wanted = example.source.strip(), example.want.strip()
        if not wanted:
            yield source
        elif parsed(f"({source}) == ({wanted})"):
            yield f"assert {source} == {wanted}"
        else:
            raise DataError(f"holds a doctest whose result is no value: {wanted!r:.60}; write it as an assert")


def _runnable(source: str, tree: ast.Module) -> Iterator[str]:
    """The statements in order, then calls of the tests that nothing calls."""
    for part, nodes in _parts(source, tree):
        if any(_is_runner(node) or _is_guard(node) for node in nodes):
            inner = [one for node in nodes for one in (node.body if isinstance(node, ast.If) else [node])]
            yield from (ast.unparse(node) for node in inner if not _is_runner(node))
        elif not (len(nodes) == 1 and _is_text(nodes[0])):
            yield part
    for node in tree.body:
        yield from _calls(node, tree)


def _parts(source: str, tree: ast.Module) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Each statement's lines; statements that share a line come together."""
    lines, waiting = source.split("\n"), list(tree.body)
    while waiting:
        together = [waiting.pop(0)]
        first, last = _lines(together[0])
        while waiting and _lines(waiting[0])[0] <= last:
            together.append(waiting.pop(0))
            last = _lines(together[-1])[1]
        yield "\n".join(lines[first - 1 : last]).strip(), together


def _lines(node: ast.stmt) -> tuple[int, int]:
    above = [one.lineno for one in getattr(node, "decorator_list", ())]
    return min([node.lineno, *above]), node.end_lineno or node.lineno


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _is_runner(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in _RUNNERS


def _calls(node: ast.stmt, tree: ast.Module) -> Iterator[str]:
    """The calls that a test runner would make of a function or class."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or _mentioned(node.name, tree):
        return
    if isinstance(node, ast.ClassDef):
        methods = [one for one in node.body if getattr(one, "name", "").startswith("test")]
        if any("TestCase" in ast.unparse(base) for base in node.bases):
            yield f"import unittest\nunittest.defaultTestLoader.loadTestsFromTestCase({node.name}).debug()"
        elif node.name.startswith("Test"):
            yield from (f"{node.name}().{_plain(one, 1)}()" for one in methods)
    elif node.name.startswith("test"):
        yield f"{_plain(node, 0)}()"


def _plain(node: ast.stmt, known: int) -> str:
    """The name of a test function. Raises DataError where a call of it would need more than pytest's fixtures give."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    needed = node.args.args[known : len(node.args.args) - len(node.args.defaults)]
    if isinstance(node, ast.AsyncFunctionDef) or needed or node.decorator_list:
        raise DataError(
            f"has the test {node.name}, which only a test runner can call (arguments, a decorator, or async); write "
            "plain asserts"
        )
    return node.name


def _mentioned(name: str, tree: ast.Module) -> bool:
    """Whether the tests use a name of theirs beside defining it."""
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _judges(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr.startswith(("assert", "fail"))
    return isinstance(node, ast.Assert | ast.Raise)
