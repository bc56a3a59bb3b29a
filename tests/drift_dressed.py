"""Replies in other dress than lists of headings, with the samples in them known.  seed -> replies

As in `drift`, items are made first. JSON in every form that models write it, XML tags, Markdown tables, YAML, one line,
options and answers in other words, LaTeX, wide and invisible characters, code without labels or fences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from tests import drift
from tests.drift import BOLD, Dress, Drifted, Item, Kind

Writer = Callable[[Kind, list[Item]], str]

TEXT = {
    "one line": Dress(head="{i}. Question: ", before_options=" ", between_options=" ", before_answer=" "),
    "one line, bold": replace(BOLD, before_options=" ", between_options=" ", before_answer=" "),
    "one line, bar": Dress(head="Q: ", before_options=" ", between_options=" ", before_answer=" | ", answer="Answer: "),
    "all on one line": Dress(before_options=" ", between_options=" ", before_answer=" ", between=" "),
    "glued headings": Dress(head="###Question {i}:", answer="###Answer:", tests="###Tests:", between=""),
    "glued bold": Dress(head="**Question {i}:**", answer="**Answer:**", tests="**Tests:**"),
    "full-width colons": Dress(head="{i}．Question：", answer="Answer：", tests="Tests：", option="{x}．{text}"),
    "full-width labels": Dress(head="Question {i}：", option="（{x}）{text}", key="（{x}）{why}"),
    "zero-width": Dress(head="\u200b{i}.\u200b Question:\u200b ", answer="\u200bAnswer\u200b: ", tests="\ufeffTests: "),
    "byte-order mark": Dress(before="\ufeff"),
    "no-break spaces": Dress(head="{i}.\u00a0Question:\u00a0", answer="Answer:\u00a0", option="{x}.\u00a0{text}"),
    "latex brackets": Dress(marker="#### \\({n}\\)", key="\\({x}\\) - {why}"),
    "latex boxed in brackets": Dress(marker="\\[\\boxed{{{n}}}\\]", key="\\(\\boxed{{{x}}}\\)\n{why}"),
    "latex boxed text": Dress(marker="\\(\\boxed{{\\text{{{n}}}}}\\)", key="$\\boxed{{\\text{{{x}}}}}$ {why}"),
    "options colon": Dress(option="{x}: {text}", key="{x}: {text}. {why}"),
    "options dash": Dress(option="{x} - {text}"),
    "options equals": Dress(option="{x} = {text}"),
    "options in square brackets": Dress(option="[{x}] {text}", key="[{x}] {why}"),
    "options by word": Dress(option="Option {x}: {text}", key="Option {x}. {why}"),
    "options by word, bracket": Dress(option="Option {x}) {text}", key="Option {x}: {why}"),
    "options by word, bold": Dress(option="**Option {x}:** {text}", key="**Option {x}** - {why}"),
    "choices by word": Dress(option="Choice {x}: {text}", key="Choice {x} - {why}"),
    "options as bullets, bold": Dress(option="* **{x})** {text}", key="**{x})** {text}\n{why}"),
    "options as bullets, colon": Dress(option="- **{x}:** {text}", key="{x}: {text}\n{why}"),
    "options as a table": Dress(option="| {x} | {text} |", key="{x}. {why}"),
    "options without space": Dress(option="{x}.{text}", key="{x}.{why}"),
    "options after slash": Dress(option="{x}. {text}", between_options=" / ", key="{x} ({why})"),
    "options after semicolon": Dress(option="({x}) {text}", between_options="; ", key="({x}). {why}"),
    "sentence": Dress(answer="", key="The correct answer is {x}. {why}", marker="The answer is {n}."),
    "sentence, bold": Dress(answer="", key="**The correct answer is {x}.** {why}", marker="**The answer is {n}.**"),
    "sentence with text": Dress(answer="Answer: ", key="The correct answer is {x}. {text}. {why}"),
    "sentence of option": Dress(answer="Answer: ", key="Option {x} is correct. {why}"),
    "sentence, bracket": Dress(answer="", key="The right choice is ({x}). {why}", marker="The final answer is: {n}"),
    "solution, then answer": Dress(answer="Solution:\n", marker="Answer: {n}", key="{why}\nAnswer: {x}"),
    "explanation first": Dress(answer="Explanation: ", marker="Answer: {n}", key="{why}\nAnswer: {x}"),
    "reasoning first": Dress(answer="**Reasoning:** ", marker="**Answer:** {n}", key="{why}\n**Answer:** {x}"),
    "explanation first, marker": Dress(answer="Explanation:\n", marker="Answer:\n#### {n}", key="{why}\nAnswer: ({x})"),
    "nested steps": Dress(answer="Answer:\n", step="   {k}. {step}", key="{x}\n   {why}"),
    "nested bold steps": Dress(answer="**Answer:**\n", step="{k}. **Step {k}:** {step}",
                               key="{x}) {text}\n\nWhy: {why}"),
    "nested steps, numbers alone": Dress(head="{i}. ", step="{k}. {step}"),
    "results with a unit in bold": Dress(marker="**Final Answer: {n} units**", key="**Correct option: {x}**\n{why}"),
    "therefore": Dress(marker="Therefore, the answer is **{n}**.", key="{x} is correct because: {why}"),
    "headed explanation": Dress(head="## Question {i}\n", answer="## Correct Answer\n",
                                key="{x}\n\n## Explanation\n{why}"),
    "html breaks": Dress(head="<b>Question {i}:</b> ", answer="<b>Answer:</b> ", tests="<b>Tests:</b> "),
    "topic in head": replace(BOLD, head="### Problem {i}: Practice\n**Question:** "),
}  # fmt: skip
NO_CODE = re.compile("one line|all on one|option|choice|explanation first|reasoning first")
"""Dresses that no code takes."""

PLAIN_CODE = {
    "no fences": "{i}. Question:\n{question}\nAnswer:\n{answer}\nTests:\n{tests}",
    "no labels": "{i}. Question:\n```python\n{question}\n```\n\n```python\n{answer}\n```\n\n```python\n{tests}\n```",
    "no labels, no tests' fence": "{i}. Question:\n```python\n{question}\n```\n```python\n{answer}\n```\n{tests}",
    "tests as bullets": "{i}. Question:\n```python\n{question}\n```\nAnswer:\n```python\n{answer}\n```\n"
                        "Tests:\n{bullets}",
    "tests as code bullets": "### Problem {i}\n```python\n{question}\n```\n### Solution\n```python\n{answer}\n```\n"
                             "### Test Cases\n{ticked}",
    "tests numbered": "Question {i}:\n{question}\n\nAnswer:\n{answer}\n\nTests:\n{numbered}",
    "explained": "{i}. Question:\n```python\n{question}\n```\nExplanation: loop over all.\n\nAnswer:\n"
                 "```python\n{answer}\n```\nTests:\n```python\n{tests}\n```\nExplanation: both ends are tested.",
    "unlabelled fences": "{i}. Question:\n```\n{question}\n```\nAnswer:\n```\n{answer}\n```\nTests:\n```\n{tests}\n```",
    "tildes": "{i}. Question:\n~~~python\n{question}\n~~~\nAnswer:\n~~~python\n{answer}\n~~~\n"
              "Tests:\n~~~python\n{tests}\n~~~",
    "tests with the answer": "{i}. Question:\n```python\n{question}\n```\nAnswer:\n```python\n{answer}\n\n{tests}\n```",
    "other labels": "{i}. Task:\n```py\n{question}\n```\nSolution:\n```py\n{answer}\n```\n"
                    "Unit tests:\n```py\n{tests}\n```",
}  # fmt: skip


def worked(kind: Kind, item: Item) -> str:
    """The answer of one item as the brief asks for it; of a choice the letter alone."""
    return "\n".join([*item.lines, f"#### {item.answer}"]) if kind == "math" else item.answer


def record(
    kind: Kind, item: Item, names: tuple[str, str] = ("question", "answer"), way: str = "map"
) -> dict[str, object]:
    """One item as an object of fields."""
    fields: dict[str, object] = {names[0]: item.question}
    if kind == "choice":
        texts = item.options.items()
        ways: dict[str, object] = {
            "map": dict(item.options), "labelled": [f"{x}. {text}" for x, text in texts], "list": [t for _, t in texts],
            "objects": [{"label": x, "text": text} for x, text in texts],
        }  # fmt: skip
        fields |= dict(texts) if way == "flat" else {"options": ways[way]}
        fields |= {names[1]: item.answer, "explanation": item.lines[0]}
    elif kind == "math":
        fields[names[1]] = worked(kind, item)
    else:
        fields |= {names[1]: item.answer, "tests": "\n".join(item.tests) if way == "map" else list(item.tests)}
    return fields


def split_record(kind: Kind, item: Item) -> dict[str, object]:
    """Working and result in fields of their own; the answer of a choice in words, code in fences."""
    if kind == "math":
        number = item.answer
        return {"problem": item.question, "solution": "\n".join(item.lines), "final_answer": number}
    if kind == "choice":
        text = f"{item.answer}) {item.options[item.answer]}"
        return {"question": item.question, "choices": [f"{x}) {t}" for x, t in item.options.items()],
                "correct_answer": text, "explanation": item.lines[0]}  # fmt: skip
    fenced = f"```python\n{item.answer}\n```"
    return {"prompt": f"```python\n{item.question}\n```", "solution": fenced, "test_cases": list(item.tests)}


def listed(records: list[dict[str, object]], **how: object) -> str:
    """A JSON array."""
    return json.dumps(records, **{"indent": 2, **how})  # type: ignore[arg-type]


def json_writers() -> dict[str, Writer]:
    """JSON in all its dress."""

    def of(dress: Callable[[list[dict[str, object]]], str], names: tuple[str, str] = ("question", "answer"),
           way: str = "map") -> Writer:  # fmt: skip
        return lambda kind, items: dress([record(kind, item, names, way) for item in items])

    return {
        "array": of(listed),
        "array, one line": of(lambda rs: listed(rs, indent=None)),
        "array, fenced": of(lambda rs: f"```json\n{listed(rs)}\n```"),
        "array, fenced, chatter": of(lambda rs: f'Sure, "new" ones {{as asked}}:\n\n```json\n{listed(rs)}\n```\nBye!'),
        "array, thought": of(lambda rs: f"<think>[{{maybe}}]</think>{listed(rs)}"),
        "object with a list": of(lambda rs: json.dumps({"problems": rs}, indent=1)),
        "object with a list and notes": of(lambda rs: json.dumps({"note": "for the student", "data": {"items": rs}})),
        "object of objects": of(lambda rs: json.dumps({f"problem_{i}": r for i, r in enumerate(rs, 1)})),
        "lines": of(lambda rs: "\n".join(map(json.dumps, rs))),
        "lines, numbered": of(lambda rs: "\n".join(f"{i}. {json.dumps(r)}" for i, r in enumerate(rs, 1))),
        "one fence each": of(lambda rs: "\n\n".join(f"Problem {i}:\n```json\n{json.dumps(r, indent=1)}\n```"
                                                    for i, r in enumerate(rs, 1))),
        "trailing commas": of(lambda rs: listed(rs).replace("\n  }", ",\n  }").replace("\n]", ",\n]")),
        "line breaks unescaped": of(lambda rs: listed(rs).replace("\\n", "\n")),
        "single quotes": of(lambda rs: str(rs)),
        "accents escaped": of(lambda rs: listed(rs, ensure_ascii=True)),
        "plain accents": of(lambda rs: listed(rs, ensure_ascii=False)),
        "capital names": of(listed, ("Question", "Answer")),
        "other names": of(listed, ("problem", "solution")),
        "other names, 2": of(listed, ("instruction", "output")),
        "second way": of(listed, way="labelled"),
        "third way": of(listed, way="list"),
        "fourth way": of(listed, way="objects"),
        "fifth way": of(listed, way="flat"),
        "split fields": lambda kind, items: listed([split_record(kind, item) for item in items]),
        "comments": of(lambda rs: listed(rs).replace('  {\n    "', '  { // next\n    "', 1)),
        "cut": of(lambda rs: listed(rs)[: -len(listed(rs[-1:])) // 2]),
        "cut in a list": of(lambda rs: json.dumps({"problems": rs})[: -len(json.dumps(rs[-1])) // 3]),
        "lines, cut": of(lambda rs: "\n".join(map(json.dumps, rs))[: -len(json.dumps(rs[-1])) // 4]),
    }  # fmt: skip


def _tags(kind: Kind, item: Item, option: str, outer: str) -> str:
    parts = [f"<question>{item.question}</question>"]
    if kind == "choice":
        shown = "\n".join(option.format(x=x, text=text) for x, text in item.options.items())
        parts += [f"<options>\n{shown}\n</options>", f"<answer>{item.answer}</answer>"]
        parts += [f"<explanation>{item.lines[0]}</explanation>"]
    else:
        parts += [f"<answer>\n{worked(kind, item)}\n</answer>"]
        parts += ["<tests>\n" + "\n".join(item.tests) + "\n</tests>"] if kind == "code" else []
    return f"<{outer}>\n" + "\n".join(parts) + f"\n</{outer.split()[0]}>"


def tag_writers() -> dict[str, Writer]:
    """XML and HTML tags."""

    def of(option: str, outer: str = "problem", whole: str = "{}") -> Writer:
        return lambda kind, items: whole.replace("{}", "\n\n".join(_tags(kind, item, option, outer) for item in items))

    def bare(kind: Kind, items: list[Item]) -> str:
        return "\n".join(_tags(kind, item, "{x}. {text}", "p").removeprefix("<p>\n").removesuffix("\n</p>")
                         for item in items)  # fmt: skip

    return {
        "tags": of("{x}. {text}"),
        "tags, within one": of("{x}) {text}", "sample", "<samples>\n{}\n</samples>"),
        "tags, fenced": of("<{x}>{text}</{x}>", "item", "```xml\n<?xml version='1.0'?>\n<items>{}</items>\n```"),
        "tags with attributes": of('<option label="{x}">{text}</option>', 'item id="1"'),
        "tags alone": bare,
        "tags, chatter": of('<option id="{x}">{text}</option>', "example", "Here:\n{}\nI hope they help."),
        "tags, cut": lambda kind, items: (text := of("{x}. {text}")(kind, items))[: -len(text) // (3 * len(items))],
    }


def _cells(kind: Kind, item: Item) -> list[str]:
    cell = lambda text: text.replace("|", "\\|").replace("\n", "<br>")  # noqa: E731
    if kind == "math":
        return [cell(item.question), cell(worked(kind, item))]
    return [cell(item.question), *map(cell, item.options.values()), item.answer, cell(item.lines[0])]


def table_writers() -> dict[str, Writer]:
    """Markdown tables; code does not fit into one."""

    def of(numbered: bool, before: str = "", after: str = "", edge: str = "| {} |") -> Writer:
        def write(kind: Kind, items: list[Item]) -> str:
            head = ["Question", "Answer"] if kind == "math" else ["Question", *"ABCD", "Correct Answer", "Explanation"]
            rows = [head, ["---"] * len(head), *(_cells(kind, item) for item in items)]
            first = ["#", ":-:", *(str(i) for i in range(1, len(items) + 1))]
            rows = [[mark, *row] for mark, row in zip(first, rows, strict=True)] if numbered else rows
            return before + "\n".join(edge.format(" | ".join(row)) for row in rows) + after

        return write

    return {
        "table": of(False), "table, numbered": of(True), "table, chatter": of(True, "Here it is:\n\n", "\n\nDone."),
        "table without edges": of(False, edge="{}"),
    }  # fmt: skip


def yaml(kind: Kind, items: list[Item]) -> str:
    """A YAML list with block texts."""
    block = lambda text: "|\n" + "\n".join(f"    {line}" for line in text.split("\n"))  # noqa: E731
    lines = []
    for item in items:
        lines.append(f"- question: {block(item.question)}")
        lines += ["  options:", *(f"    {x}: {text}" for x, text in item.options.items())] if kind == "choice" else []
        lines.append(f"  answer: {block(worked(kind, item)) if kind != 'choice' else item.answer}")
        lines += [f"  explanation: {item.lines[0]}"] if kind == "choice" else []
        lines += [f"  tests: {block(chr(10).join(item.tests))}"] if kind == "code" else []
    return "\n".join(lines)


def writers(kind: Kind) -> dict[str, Writer]:
    """Every dress of a kind that no template writes."""
    tables = table_writers() if kind != "code" else {}
    return {f"JSON {name}": write for name, write in json_writers().items()} | tag_writers() | tables | {"YAML": yaml}


def _plain_code(shape: str, item: Item, i: int) -> str:
    return PLAIN_CODE[shape].format(
        i=i, question=item.question, answer=item.answer, tests="\n".join(item.tests),
        bullets="\n".join(f"- {test}" for test in item.tests), ticked="\n".join(f"- `{test}`" for test in item.tests),
        numbered="\n".join(f"{k}. {test}" for k, test in enumerate(item.tests, 1)),
    )  # fmt: skip


def replies(seed: int = 0, each: int = 2, kinds: tuple[Kind, ...] = drift.KINDS) -> Iterator[Drifted]:
    """`each` replies of 2 to 4 items for every kind and dress. A reply that was cut begins one item more."""
    for kind in kinds:
        texts = TEXT if kind != "code" else [*(name for name in TEXT if not NO_CODE.match(name)), *PLAIN_CODE]
        for shape in [*texts, *writers(kind)]:
            for at in range(each):
                rng = Random(f"dressed {seed}/{kind}/{shape}/{at}")
                items = [drift.MAKERS[kind](rng) for _ in range(rng.randint(2, 4))]
                yield _reply(kind, shape, items, rng)


def _reply(kind: Kind, shape: str, items: list[Item], rng: Random) -> Drifted:
    if shape in TEXT:
        return drift.dressed(kind, shape, TEXT[shape], items, rng)
    if shape in PLAIN_CODE:
        return Drifted(
            kind, shape, "\n\n".join(_plain_code(shape, x, i) for i, x in enumerate(items, 1)), tuple(items), False
        )
    cut = shape.endswith(("cut", "cut in a list"))
    return Drifted(kind, shape, writers(kind)[shape](kind, items), tuple(items[:-1] if cut else items), cut)
