"""Parses samples of programming problems.  reply -> pieces

An item is a question (signature and docstring, or prose), an answer (code) and tests (asserts). Fences, headings,
numbering and bold are skipped; doctest examples in the question are tests too. A heading within a code block is code,
unless the block lacks its closing fence.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, field
from itertools import islice

from lai_ray.grading.fences import closing, code_blocks, fence, fences_alone, parsed, unglued
from lai_ray.grading.programs import defined_names
from lai_ray.instructor.parsing.headings import ANSWER, CODE, HEAD, NUMBERED, TESTS, reply_lines
from lai_ray.instructor.parsing.records import Record, records
from lai_ray.records import Piece

MIN_TESTS = 2
"""Of a new problem."""
_HEADINGS = (("question", HEAD), ("tests", TESTS), ("answer", ANSWER), ("answer", CODE))
_NUMBER_ALONE = re.compile(r"^[\s>#*_]{0,12}\(?(\d{1,4})[.)]\)?[\s*_]{0,6}$")
_COMMENT = re.compile(r"[ \t]{4,40}#{1,2}[ ]")
"""In code without a fence, and no heading."""
_MOST_ATTEMPTS = 1_000
"""At parsing the asserts of one section."""
_MOST_LINES = 400
_MOST_HEADINGS = 20
"""Tried as the end of a block: parsing takes time."""
_EXAMPLE = re.compile(r"^\s*>>>\s*(\S.*)\n\s*(?!>>>)(\S.*)$", re.M)


@dataclass
class _Item:
    """The lines of one possible sample, by section."""

    lines: dict[str, list[str]] = field(default_factory=lambda: {"question": []})
    section: str = "question"

    @property
    def empty(self) -> bool:
        """Whether it has only a heading so far: "Sample 3:" followed by "Question:" is one heading."""
        return self.section == "question" and not any(line.strip() for line in self.lines["question"])


def code_pieces(reply: str) -> list[Piece]:
    """The samples in order; an incomplete one has `rejected` = the reason."""
    found = records(reply)
    return [_piece(item) for item in (map(_of_record, found) if found else _items(reply))]


def _of_record(record: Record) -> _Item:
    """The item of a record; its answer is the first field that holds a function."""
    lines = {"question": record.question.split("\n"), "tests": record.tests.split("\n")}
    possible = [text.split("\n") for text in (record.answer, *record.working) if text]
    answer = next((text for text in possible if defined_names(_code(text))), next(iter(possible), []))
    return _Item(lines | ({"answer": answer} if answer and record.whole else {}))


def _items(reply: str) -> list[_Item]:
    items: list[_Item] = []
    lines = unglued("\n".join(reply_lines(reply))).split("\n")
    alone = fences_alone(lines)
    ends = -1
    """Of the block that the line is in."""
    for at, line in enumerate(lines):
        section, rest = (None, line) if at <= ends else _section(line, items)
        if section == "question" and items and items[-1].empty:
            items[-1].lines["question"] = []
        elif section == "question":
            items.append(_Item())
        elif section and section != "question" and items:
            items[-1].section = section
            items[-1].lines.setdefault(section, [])
        if items:
            items[-1].lines[items[-1].section].append(rest)
        if at > ends and fence(rest):
            lines[at] = rest  # "Answer: ```python"
            ends = _end(lines, at, alone)
    return items


def _end(lines: list[str], at: int, alone: list[int]) -> int:
    """The index of the last line of the block that line `at` opens. Where what it holds is no Python, the line before
    the first heading up to which it is: its closing fence is missing."""
    end = closing(lines, at, alone)
    if end < len(lines) and parsed(textwrap.dedent("\n".join(lines[at + 1 : end]))):
        return end
    headings = (i for i in range(at + 1, min(end, at + _MOST_LINES)) if _is_heading(lines[i]))
    for i in islice(headings, _MOST_HEADINGS):
        if parsed(textwrap.dedent("\n".join(lines[at + 1 : i]))):
            return i - 1
    return end


def _is_heading(line: str) -> bool:
    return not line[:1].isspace() and any(heading.match(line) for _, heading in _HEADINGS)


def _section(line: str, items: list[_Item]) -> tuple[str | None, str]:
    """The section that this line begins, if any, and the rest of the line."""
    if items and items[-1].section == "answer" and _COMMENT.match(line):
        return None, line
    for name, heading in _HEADINGS:
        match = heading.match(line)
        if match:
            return name, line[match.end() :]
    number = NUMBERED.match(line) or _NUMBER_ALONE.match(line)
    if number and not re.match(r"assert\b", line[number.end() :]):
        # "2." begins an item where the previous item has its answer and this is the next number; "1." the first.
        if items and "answer" in items[-1].lines and int(number[1]) == len(items) + 1:
            return "question", line[number.end() :]
        if not items and number[1] == "1":
            return "question", line[number.end() :]
    return None, line


def _piece(item: _Item) -> Piece:
    if "answer" not in item.lines:
        _unlabelled(item)
    question, code = _code(item.lines["question"]), _code(item.lines.get("answer", []))
    if not question:
        return Piece("", "", "", rejected="no question")
    if not code:
        return Piece(question, "", "", rejected="no answer")
    code = _without_asserts(code)
    response = f"```python\n{code}\n```"
    names = defined_names(code)
    if not names:
        return Piece(question, "", response, rejected="its answer is no Python function (cut off?)")
    tests = _asserts("\n".join(item.lines.get("tests", ()))) or _examples(question)
    tests = list(dict.fromkeys(tests or _asserts("\n".join(item.lines["answer"]))))
    entry = _entry(question, tests, names)
    if entry is None or len(calls := [test for test in tests if entry in _names_in(test)]) < MIN_TESTS:
        return Piece(question, "", response, rejected="no test")
    prompt = question if entry in defined_names(_whole(question)) else header(question, code, entry, calls)
    extra = {"entry": entry, "test": "\n".join(calls), "check": False}
    return Piece(prompt, code, response, extra)


def _without_asserts(code: str) -> str:
    """The code without asserts, its tests, at its end."""
    tree = parsed(code) if re.search(r"^assert\b", code, re.M) else None
    body = tree.body if tree else []
    first = next((i for i, node in enumerate(body) if isinstance(node, ast.Assert)), 0)
    if not first or not all(isinstance(node, ast.Assert) for node in body[first:]):
        return code
    return "\n".join(code.split("\n")[: body[first - 1].end_lineno])


def _unlabelled(item: _Item) -> None:
    """Moves the blocks of a question without labels: the last that writes a function is the answer, asserts behind it
    the tests."""
    lines = item.lines["question"]
    starts = _block_starts(lines)
    if len(starts) < 2:
        return
    ends = [*starts[1:], len(lines)]
    blocks = [lines[start:end] for start, end in zip(starts, ends, strict=True)]
    written = [i for i, block in enumerate(blocks) if i and defined_names(_code(block))]
    if not written:
        return
    at = written[-1]
    stop = starts[at] + 1 + closing(blocks[at], 0)
    item.lines["answer"] = lines[starts[at] : stop]
    item.lines["tests"] = [*lines[stop:], *item.lines.get("tests", ())]
    item.lines["question"] = lines[: starts[at]]


def _block_starts(lines: list[str]) -> list[int]:
    """The lines that open a code block."""
    alone, starts, at = fences_alone(lines), list[int](), 0
    while at < len(lines):
        if fence(lines[at]):
            starts.append(at)
            at = closing(lines, at, alone)
        at += 1
    return starts


def header(text: str, code: str, entry: str, tests: list[str]) -> str:
    """A prompt from a task in prose: the reference's signature, with the task and the tests as its docstring.

    Classes of the reference that the tests instantiate precede it. `code` must define `entry`.
    """
    tree = ast.parse(code)
    used = set().union(*map(_names_in, tests)) if tests else set()
    classes = [ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef) and node.name in used]
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    annotated = function.returns or any(a.annotation for a in function.args.args)
    needed = imports if annotated or classes else [line for line in imports if _binds(line) & _all_names(tests)]
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    words = " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''")
    examples = [example for test in tests if (example := _as_example(test))]
    lines = [f"def {entry}({ast.unparse(function.args)}){returns}:", f'    """ {words}', *examples, '    """']
    return "\n\n\n".join([*filter(None, ["\n".join(needed)]), *classes, "\n".join(lines)]) + "\n"


def _binds(line: str) -> set[str]:
    return {(alias.asname or alias.name).split(".")[0] for node in ast.parse(line).body for alias in node.names}  # type: ignore[attr-defined]


def _all_names(tests: list[str]) -> set[str]:
    return {node.id for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}


def _as_example(test: str) -> str | None:
    """`assert f(1) == 2` as a docstring's example; None for any other test."""
    node = ast.parse(test).body[0]
    if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)):
        return None
    if len(node.test.ops) != 1 or not isinstance(node.test.ops[0], ast.Eq):
        return None
    call, expected = ast.unparse(node.test.left), ast.unparse(node.test.comparators[0])
    return f"    >>> {call}\n    {expected}".replace("\\", "\\\\").replace('"""', "'''")


def _code(lines: list[str]) -> str:
    """The content of the section's first code block, else the section itself."""
    at = next((i for i, line in enumerate(lines) if fence(line)), None)
    if at is None:
        text = "\n".join(lines).strip("\n").rstrip()
        return text if lines and lines[0].strip() else textwrap.dedent(text)
    before = "\n".join(lines[:at]).strip("*_ \n")
    found = code_blocks("\n".join(lines)) or [textwrap.dedent("\n".join(lines[at + 1 : closing(lines, at)]))]
    inside = found[0].strip("\n").rstrip()
    return inside if not before or defined_names(_whole(inside)) else f"{before}\n{inside}".rstrip()


def _whole(question: str) -> str:
    """A signature and docstring, completed to a function that parses."""
    return question if defined_names(question) else f"{question.rstrip()}\n    pass\n"


def _asserts(text: str) -> list[str]:
    """The asserts of a section, each on lines of its own; other lines are skipped."""
    tests: list[str] = []
    attempts = 0
    lines = [line.strip("`") if line.startswith("`") and not fence(line) else line for line in text.split("\n")]
    for i, line in enumerate(lines):
        start = re.match(r"[\s>*•`\-\d.)]*(?=assert\b)", line)
        if not start or attempts > _MOST_ATTEMPTS:
            continue
        for end in range(i + 1, min(i + 40, len(lines)) + 1):
            attempts += 1
            source = "\n".join([line[start.end() :].rstrip("` "), *lines[i + 1 : end]])
            if _is_assert(source):
                tests.append(source)
                break
    return tests


def _is_assert(source: str) -> bool:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(body) == 1 and isinstance(body[0], ast.Assert) and not isinstance(body[0].test, ast.Constant)


def _examples(question: str) -> list[str]:
    tests = [f"assert {call.strip()} == {expected.strip()}" for call, expected in _EXAMPLE.findall(question)]
    return [test for test in tests if _is_assert(test)]


def _names_in(test: str) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}


def _entry(question: str, tests: list[str], names: list[str]) -> str | None:
    """The function to write: the question's last one that the answer defines, else the one that the tests call."""
    asked = [name for name in defined_names(_whole(question)) if name in names]
    if asked:
        return asked[-1]
    called = set().union(*map(_names_in, tests)) if tests else set()
    return next((name for name in reversed(names) if name in called), None)
