"""Samples given as fields: JSON objects, XML tags, rows of a Markdown table.  reply -> records

A reply is read this way where such records make up half of it or more; else it is left to the parsers of texts. Tags
are matched by name and nothing is evaluated or expanded. All passes are linear.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lai_ray.grading.answer_part import without_thoughts
from lai_ray.instructor.parsing import lenient_json

_NAMES = {
    "question": "question problem prompt instruction task exercise problem_statement new_question "
    "question_text problem_text description 问题 題目 题目 質問 문제",
    "answer": "answer correct_answer final_answer correct_option correct_choice correct gold result key answer_key "
    "correct_letter label final_result answer_letter 答案 正解 정답",
    "working": "solution output response explanation reason reasoning rationale working steps worked_answer "
    "worked_solution step_by_step_solution justification why code reference_solution implementation worked 解答 解析",
    "choices": "options choices answer_choices answer_options answers 选项 選択肢",
    "tests": "tests test test_cases testcases test_list unit_tests asserts assertions test_case",
}
_FIELDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_LABEL = re.compile(r"(?:option|choice|opt|answer)?[\s_-]?\(?([A-J])\)?", re.I)
_OF_LABEL = re.compile(r"\s{0,4}\(?([A-Ja-j])[.):\]]\s{0,4}(?=\S)")
_TAG = re.compile(
    rf"<(/?)({'|'.join(sorted(_FIELDS.keys() - {'label', 'key', 'code', 'why'}, key=len, reverse=True))}"
    r"|option|choice|item|sample|example)((?:\s[^<>\n]{0,80})?)\s?>",
    re.I,
)
_INNER = re.compile(r"<(option|choice|answer|item|[A-J])((?:\s[^<>\n]{0,80})?)\s?>([^<]{0,2000})</\1\s?>", re.I)
_ATTRIBUTE = re.compile(r"[\"'](\w)[\"']")
_OUTER = {"problem", "exercise", "task", "instruction", "prompt", "answers"}
"""Tags that may hold other tags instead of text."""
_RULED = set("|:- \t")
_SPLIT = re.compile(r"(?<!\\)\|")
_BREAK = re.compile(r"<br\s?/?>", re.I)
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")


@dataclass
class Record:
    """The fields of one sample, as texts."""

    question: str = ""
    answer: str = ""
    """The result: a letter, a number, a word; or all of the worked answer."""
    working: list[str] = field(default_factory=list)
    """Solution and explanation, where they are fields of their own."""
    choices: dict[str, str] = field(default_factory=dict)
    tests: str = ""
    whole: bool = True
    """False where it was cut off."""

    @property
    def answered(self) -> bool:
        """Whether it has both a question and an answer."""
        return bool(self.question and (self.answer or self.working))


def records(reply: str) -> list[Record]:
    """The records of a reply; none where it is no list of records."""
    reply = (without_thoughts(reply) or "").strip()
    for reader in (_of_json, _of_tags, _of_table):
        found, size = reader(reply)
        if any(record.answered for record in found) and size >= 0.5 * len(reply):
            return found
    return []


def _field(name: str) -> str:
    """The field that a key, a tag or a column names; a label is "A" to "J"; "" for none."""
    plain = re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip(" *_`#:："))[:60]).lower()
    if plain in _FIELDS:
        return _FIELDS[plain]
    label = _LABEL.fullmatch(plain)
    return label[1].upper() if label else ""


def _of_json(reply: str) -> tuple[list[Record], int]:
    if "{" not in reply:
        return [], 0
    found = lenient_json.objects(reply, _is_record)
    made = [_record(value.items()) for value in found.taken]
    size = found.size + (len(reply) - reply.rfind("{") if found.cut else 0)
    return made + [Record(whole=False)] * found.cut, size


def _is_record(value: dict[str, Any]) -> bool:
    fields = {_field(key) for key in value}
    return "question" in fields and not fields.isdisjoint({"answer", "working"})


def _record(pairs: Iterable[tuple[str, Any]]) -> Record:
    made = Record()
    for name, value in pairs:
        place = _field(name)
        if place == "choices":
            _choose(made, value)
        elif len(place) == 1:
            made.choices.setdefault(place, _text(value))
        elif place == "working" or (place == "answer" and made.answer):
            made.working.append(_text(value))
        elif place and not getattr(made, place):
            setattr(made, place, _text(value))
    return made


def _text(value: Any) -> str:
    """A field's value as text: lists line by line; of an object its values."""
    if isinstance(value, str):
        return html.unescape(_CDATA.sub("", value)).strip("\n") if "<![" in value or "&" in value else value.strip("\n")
    values = value.values() if isinstance(value, Mapping) else value
    return "\n".join(_text(each) for each in values)


def _choose(made: Record, value: Any) -> None:
    """Takes the options: by label, in order, or as one text behind the question."""
    if isinstance(value, str):
        made.question += f"\n{value}"
        return
    if isinstance(value, Mapping):
        pairs = [(_label(key), _text(text)) for key, text in value.items()]
    else:
        pairs = [_labelled(each) for each in value]
    if all(label for label, _ in pairs):
        made.choices = dict(pairs)
    else:
        made.choices = {chr(ord("A") + i): text for i, (_, text) in enumerate(pairs)}


def _label(name: str) -> str:
    label = _LABEL.fullmatch(name.strip())
    return label[1].upper() if label else ""


def _labelled(value: Any) -> tuple[str, str]:
    """An option of a list: "A. text", {"label": "A", "text": text}, {"A": text}, or its text alone."""
    if isinstance(value, Mapping):
        texts = [(key, _text(each)) for key, each in value.items()]
        if len(texts) == 1:
            return _label(texts[0][0]), texts[0][1]
        label = next((text for _, text in texts if _label(text)), "")
        rest = [text for key, text in texts if text != label and key.lower() in {"text", "content", "value", "option"}]
        return _label(label), rest[0] if rest else texts[-1][1]
    text = _text(value)
    match = _OF_LABEL.match(text)
    return (match[1].upper(), text[match.end() :]) if match else ("", text)


def _of_tags(reply: str) -> tuple[list[Record], int]:
    found: list[list[tuple[str, Any]]] = []
    size, name, start = 0, "", 0
    for tag in _TAG.finditer(reply):
        closing, own = bool(tag[1]), tag[2].lower()
        if not closing and _is_outer(own, name):
            continue
        if not closing and (not name or name in _OUTER):
            name, start = own, tag.end()
        elif closing and own == name:
            text = reply[start : tag.start()].strip()
            size += tag.end() - start + len(own) + 2
            if _FIELDS.get(own) == "question" or not found:
                found.append([])
            found[-1].append(_of_tag(own, text, reply[:start][-90:]))
            name = ""
    made = [_record(_gathered(pairs)) for pairs in found]
    if name and _FIELDS.get(name):  # It never closes.
        if _FIELDS[name] == "question" or not made:
            made.append(Record())
        made[-1].whole = False
        size += len(reply) - start
    return made, size


def _is_outer(own: str, name: str) -> bool:
    """Whether a tag holds samples, or is a part of the field that is being read."""
    return own in {"item", "sample", "example"} or bool(name and name not in _OUTER)


def _of_tag(own: str, text: str, before: str) -> tuple[str, Any]:
    if own in {"option", "choice"}:
        label = _ATTRIBUTE.search(before[before.rfind("<") :])
        return "option", {label[1]: text} if label else text
    if _FIELDS[own] == "choices":
        inner = [(_ATTRIBUTE.search(each[2]), each) for each in _INNER.finditer(text)]
        if inner:
            return own, [{mark[1]: each[3].strip()} if mark else {each[1]: each[3].strip()} if len(each[1]) == 1
                         else each[3].strip() for mark, each in inner]  # fmt: skip
    return own, text


def _gathered(pairs: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The fields, with single options as one list."""
    options = [value for name, value in pairs if name == "option"]
    yield from ((name, value) for name, value in pairs if name != "option")
    if options:
        yield "options", options


def _of_table(reply: str) -> tuple[list[Record], int]:
    lines = reply.splitlines()
    at = next((i for i, line in enumerate(lines) if i and "|" in line and "--" in line and set(line) <= _RULED), 0)
    names = _cells(lines[at - 1]) if at else []
    if not _is_record(dict.fromkeys(names)):
        return [], 0
    made, size = [], 0
    for line in lines[at + 1 :]:
        if "|" not in line:
            break
        cells = [_BREAK.sub("\n", cell).replace("\\|", "|").strip() for cell in _cells(line)]
        size += len(line)
        whole = len(cells) == len(names)
        made.append(_record(zip(names, cells, strict=True)) if whole else Record(whole=False))
    return made, size + len(lines[at - 1]) + len(lines[at])


def _cells(line: str) -> list[str]:
    line = line.strip()
    inner = line[line.startswith("|") : len(line) - (line.endswith("|") and not line.endswith("\\|"))]
    return _SPLIT.split(inner)
