"""The verdict on a response to a BIG-Bench Hard question.  question, target, response -> Grade

Default rules, by the type of the target:
    a choice "(B)"         the rules of `choices`, with the question's own options
    a number               the rules of `numbers`
    Yes/No, True/False, …  the last "answer is X", else the word that the response begins with ("No, since …"),
                           else the only such word of the last sentence that has one
    brackets, words        the text after the last "answer is", in the last box, or after "the sorted list is", else the
                           last paragraph, which may be a list; without regard to spaces, commas, numbering and remarks
A negated label is the other one: "not valid" is "invalid". Thoughts and further questions are taken off first.

Paper rule (phrase): the text between the first "the answer is" and the next full stop equals the target, except for
case.
"""

from __future__ import annotations

import re

from lai_ray.grading.answer_part import narrow, own_parts, unclosed, without_thoughts
from lai_ray.grading.choices import default_choice
from lai_ray.grading.numbers import clipped, final_number, is_right, read_number
from lai_ray.grading.numerals import undressed
from lai_ray.records import Grade

LABELS = (("yes", "no"), ("true", "false"), ("valid", "invalid"), ("plausible", "implausible"))
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*)$", re.M)
_LETTER = re.compile(r"\(([A-Z])\)")
_PHRASE = re.compile(r"answer(?:\s+to\s+[^.\n:]{0,80}?)?[\s*_]{0,8}(?:is|are|would be|:)[\s*_:]{0,8}", re.I)
_LISTED = re.compile(
    r"\b(?:sort(?:ed|ing)?|order(?:ed)?|alphabetical(?:ly)?|final|complete[sd]?|closing|missing|remaining|correct)\b"
    r"[^.\n:]{0,80}?(?:\b(?:is|are|be)\b\s?(?:as follows)?:?|:)[\s*_]{0,8}(?=\S)",
    re.I,
)
_WORDS = re.compile(r"[^\W_]+(?:['’&.-]+[^\W_]+)*")
_ITEM = re.compile(r"^\s{0,8}(?:[-*+•–][ \t]+|\(?\d{1,3}[.):][ \t]*|\(?[A-Za-z][.)][ \t]+)?")
_NUMBERING = re.compile(r"(?:(?<=\s)|^)\(?\d{1,3}[.)]\s+(?=\S)")
_REMARK = re.compile(r"(?<=\S)(?:[.!?]{1,3}[*_`\"'$)]{0,4}\s+(?=[A-Z(])|\s+\((?=[a-z])|\s+[—–-]\s|;\s)")
_BOX = re.compile(r"boxed\s?\{((?:\\[{}]|[^{}\\]|\\(?![{}])|\{[^{}]{0,200}\}){0,400})\}")
_MARKED_ITEM = re.compile(r"\s{0,8}(?:[-*+•–][ \t]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)][ \t])")
_SEMICOLONS = re.compile(r"[^\s;]+(?:;\s+[^\s;]+)+")
_TAGGED = re.compile(r"<answer>\s{0,8}((?:[^<]|<(?!/?answer>)){1,4000})</answer>", re.I)
_BRACKET_LINE = re.compile(r"(?m)^\s{0,8}(?:[-*+•–]|\(?\d{1,3}[.)])?[ \t]*([(){}\[\]<>])[ \t,`]*(?:\n\s{0,4}|\Z)")
"""A list of brackets, one a line."""
_FENCE_LINE = re.compile(r"(?m)^\s{0,8}(?:`{3,}|~{3,})\w*[ \t]*\n?")
_BRACKETS = re.compile(r"[\s`*_\"'$]{0,8}([(){}\[\]<>](?:[(){}\[\]<>\s`,]|\\(?=[{}]))*)")
_LEAD = re.compile(r"[\s*_\"'#>]{0,12}(\w+)[*_\"']{0,3}(?:\s?[,.!:;—–-]|\s*$|\s*\n)")
"""A response that begins with its verdict: "No, because yes would need two"."""
_COMES_TO = re.compile(r"(?:=|→|->|\b(?:is|equals|gives|yields|becomes|evaluates\sto|returns))\s?\W{0,6}(\w+)\W{0,6}$")
"""A calculation that ends in its result: "True and False = False"."""
_NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|can['’]?t)|n['’]t)\s+(?:be\s+)?(?:(?:a|an|the|really|actually|necessarily|deductively|logically|"
    r"entirely|very|considered|quite|formally|at\s+all)\s+){0,3}[\"'*_]{0,3}(\w+)",
    re.I,
)


def paper_grade(target: str, response: str) -> Grade:
    """The verdict of the paper's release."""
    _, phrase, rest = response.partition("the answer is")
    if not phrase:
        return Grade(0.0, None, "none", "unparsed", 'no "the answer is" in the response')
    answer = rest[:10_000].partition(".")[0].strip()
    return Grade(float(answer.lower() == target.lower()), answer[:200], "phrase", "graded")


def default_grade(question: str, target: str, response: str) -> Grade:
    """The verdict by the default rules."""
    text = without_thoughts(clipped(response))
    if text is None:
        return unclosed()
    grade = _grade(None, False, "empty")
    for part in own_parts(text.strip()):
        grade = _graded(question, target, part)
        if grade.status == "graded":
            break
    return grade


def _graded(question: str, target: str, text: str) -> Grade:
    letter = _LETTER.fullmatch(target.strip())
    options = dict(_OPTION.findall(question))
    if letter and len(options) > 1:
        choice = default_choice(text, options)
        return _grade(f"({choice.letter})" if choice.letter else None, choice.letter == letter[1], choice.rule)
    if read_number(target) is not None:
        number = final_number(text)
        if number is None:
            return _grade(None, False, "no number in the response")
        return _grade(number.text, is_right(number.text, target), number.rule)
    labels = next((pair for pair in LABELS if target.lower() in pair), None)
    if labels:
        return _label(labels, target, text)
    return _sequence(target, text)


def _grade(answer: str | None, right: bool, rule: str) -> Grade:
    if answer is None:
        return Grade(0.0, None, "none", "unparsed", rule)
    return Grade(float(right), answer[:200], rule, "graded")


def _label(labels: tuple[str, str], target: str, text: str) -> Grade:
    text = _NEGATED.sub(lambda m: _opposite(labels, m), undressed(narrow(text)))
    stated = _stated_answer(text)
    first = _WORDS.search(stated.replace("boxed", "")) if stated is not None else None
    if first and first.group().lower() in labels:
        return _grade(first.group(), first.group().lower() == target.lower(), "phrase")
    lead = _LEAD.match(text)
    if lead and lead[1].lower() in labels:
        return _grade(lead[1], lead[1].lower() == target.lower(), "lead")
    for sentence in reversed(re.split(r"[.!?]\s+|\n+", text)):
        named = {word.lower() for word in _WORDS.findall(sentence)} & set(labels)
        if len(named) == 1:
            word = named.pop()
            return _grade(word, word == target.lower(), "last_word")
        if ends := named and _COMES_TO.search(sentence):
            word = ends[1].lower()
            if word in labels:
                return _grade(word, word == target.lower(), "result")
        if named:
            break
    return _grade(None, False, f"neither {labels[0]} nor {labels[1]}, or both")


def _opposite(labels: tuple[str, str], negated: re.Match[str]) -> str:
    """The other label for "not valid"; the text itself where no label is negated."""
    word = negated[1].lower()
    return f" {labels[1 - labels.index(word)]}" if word in labels else negated[0]


def _sequence(target: str, text: str) -> Grade:
    text = undressed(narrow(text)).replace("’", "'")
    if not _WORDS.search(target):
        text = _BRACKET_LINE.sub(r"\1 ", text)
    stated, rule = _stated_sequence(text)
    if not stated.strip():
        return _grade(None, False, "no answer")
    # A target without words is brackets; elsewhere brackets are decoration.
    wanted = _WORDS.findall(target.casefold().replace("’", "'"))
    if not wanted:
        run = _BRACKETS.match(stated)
        brackets = re.findall(r"[(){}\[\]<>]", run[1] if run else stated)
        return _grade(" ".join(brackets) or None, brackets == target.split(), rule)
    given = _words(stated)
    if given != wanted and "and" not in wanted:
        given = [word for word in given if word != "and"]
    return _grade(stated.strip(" *.`"), given == wanted, rule)


def _words(stated: str) -> list[str]:
    """The words of a list, without its numbering and the remark behind it."""
    if _SEMICOLONS.fullmatch(stated.strip()):
        stated = stated.replace(";", ",")
    listed = _NUMBERING.sub("", _REMARK.split(stated, maxsplit=1)[0])
    return _WORDS.findall(listed.casefold())


def _stated_sequence(text: str) -> tuple[str, str]:
    """The text that states a list, on one line, and the rule that found it."""
    text = _FENCE_LINE.sub("", text)
    text = (_TAGGED.findall(text) or [text])[-1]
    starts = [(m.end(), "phrase") for m in _PHRASE.finditer(text)]
    boxes = list(_BOX.finditer(text))
    if boxes and (not starts or boxes[-1].end() > starts[-1][0]):
        return boxes[-1][1].replace("\\{", "{").replace("\\}", "}"), "boxed"
    listed = [m.end() for m in _LISTED.finditer(text)] if not starts else []
    if starts or listed:
        at, rule = starts[-1] if starts else (listed[-1], "listed")
        return _on_one_line(text[at:]), rule
    paragraphs = re.split(r"\n\s*\n", text.strip())
    last = paragraphs[-1]
    remark = len(paragraphs) > 1 and last.endswith((".", "!", "?")) and _one_a_line(paragraphs[-2])
    return remark or _one_a_line(last) or last.split("\n")[-1], "last_line"


def _one_a_line(paragraph: str) -> str:
    """The items of a paragraph that is a list of words, one a line, perhaps below a heading; "" for any other."""
    lines = paragraph.split("\n")
    items = [_ITEM.sub("", line) for line in (lines[1:] if lines[0].rstrip().endswith(":") else lines)]
    return " ".join(items) if len(items) > 1 and all(len(_WORDS.findall(item)) == 1 for item in items) else ""


def _on_one_line(text: str) -> str:
    """The first line; of a list, one item a line, all of it: a list begins on its own line, or with a number."""
    lines = text.lstrip().split("\n")
    first = _ITEM.sub("", lines[0])
    if len(_WORDS.findall(first)) > 1:
        return lines[0]
    items, marked = [first], _MARKED_ITEM.match(lines[0]) is not None
    for line in lines[1:]:
        if not line.strip() and marked:
            continue
        item = _ITEM.sub("", line)
        if len(_WORDS.findall(item)) != 1 or line.rstrip().endswith(":") or (marked and not _MARKED_ITEM.match(line)):
            break
        items.append(item)
    return " ".join(items)


def _stated_answer(text: str) -> str | None:
    """The text after the last "answer is" on its line (on the next, where the line ends there); None without one."""
    end = len(text)
    for _ in range(20):
        end = max(text.rfind("answer", 0, end), text.rfind("Answer", 0, end))
        if end < 0:
            return None
        match = _PHRASE.match(text, end)
        if match:
            return text[match.end() :].lstrip().partition("\n")[0].strip().rstrip(".").strip("*` ")
    return None
