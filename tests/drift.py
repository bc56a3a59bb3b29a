"""Replies that drift from the requested format, with the samples in them known.  seed -> replies

Written apart from the parsers: an item is made first, then dressed. A dress says how heads, answers, options, tests and
what stands between them look; what a reply must give is the items, whatever the dress. A reply that was cut has
one item less than it begins: the last is no sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

Kind = Literal["math", "choice", "code"]
KINDS: tuple[Kind, ...] = ("math", "choice", "code")


@dataclass(frozen=True)
class Item:
    """One sample as it was meant."""

    question: str
    answer: str
    """A plain number, a letter, or a function's source."""
    lines: tuple[str, ...] = ()
    """Worked steps, or the explanation."""
    options: dict[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dress:
    """How a reply is written. `{i}` counts the items."""

    head: str = "{i}. Question: "
    answer: str = "Answer: "
    tests: str = "Tests: "
    option: str = "{x}. {text}"
    options: str = "{}"
    between_options: str = "\n"
    before_options: str = "\n"
    before_answer: str = "\n"
    key: str = "{x} - {why}"
    marker: str = "#### {n}"
    step: str = "{step}"
    between: str = "\n\n"
    before: str = ""
    after: str = ""
    aside: str = ""
    """Chatter between the items."""
    whole: str = "{}"
    indent: str = ""
    end: str = "\n"
    cut: bool = False


BOLD = Dress(head="**{i}. Question:** ", answer="**Answer:** ", tests="**Tests:** ")
DRESSES = {
    "as asked": Dress(),
    "bold": BOLD,
    "bold, colon outside": replace(BOLD, head="**Question {i}**: ", answer="**Answer**: ", tests="**Tests**: "),
    "italic": Dress(head="*Question {i}:* ", answer="*Answer:* ", tests="*Tests:* "),
    "headed": Dress(head="### Question {i}\n", answer="### Answer\n", tests="### Tests\n", before_answer="\n\n"),
    "headed, colons": Dress(head="#### Question {i}:\n", answer="#### Answer:\n", tests="#### Tests:\n"),
    "headed problems": Dress(head="## Problem {i}\n\n", answer="## Solution\n\n", tests="## Tests\n\n"),
    "headed bold": Dress(head="### **Question {i}:**\n", answer="### **Answer:**\n", tests="### **Tests:**\n"),
    "headed, question below": Dress(head="### {i}.\n**Question:** ", answer="**Answer:** ", tests="**Tests:** "),
    "square brackets": Dress(head="[QUESTION]\n", answer="[ANSWER]\n", tests="[TESTS]\n"),
    "samples": Dress(head="Sample {i}:\nQuestion: "),
    "bold samples": replace(BOLD, head="**Sample {i}**\n\n**Question:** ", between="\n\n---\n\n"),
    "numbers alone": Dress(head="{i}. "),
    "bold numbers alone": replace(BOLD, head="**{i}.** "),
    "round bracket": Dress(head="{i}) Question: "),
    "two brackets": Dress(head="({i}) Question: "),
    "number behind": Dress(head="Question {i}: "),
    "number sign": Dress(head="Question #{i}: ", answer="Solution: "),
    "unnumbered": Dress(head="Question: "),
    "Q and A": Dress(head="Q{i}: ", answer="A{i}: "),
    "Q. and A.": Dress(head="Q{i}. ", answer="Ans. "),
    "dash": Dress(head="Question {i} - ", answer="Answer - "),
    "exercises": Dress(head="Exercise {i}: ", answer="Worked solution: "),
    "new problems": Dress(head="**New Problem {i}:** ", answer="**Worked Answer:** "),
    "tasks": Dress(head="Problem {i}:\n", answer="Step-by-step solution:\n", tests="Test cases:\n"),
    "correct answer": Dress(answer="Correct Answer: "),
    "correct answer, bold": replace(BOLD, answer="**Correct answer**: "),
    "the answer is": Dress(answer="The answer is: "),
    "ans": Dress(answer="Ans: "),
    "answer and explanation": Dress(answer="Answer and explanation: "),
    "capitals": Dress(head="QUESTION {i}: ", answer="ANSWER: ", tests="TESTS: "),
    "lower case": Dress(head="question {i}: ", answer="answer: ", tests="tests: "),
    "blank lines": Dress(before_options="\n\n", before_answer="\n\n", between="\n\n\n\n", between_options="\n\n"),
    "no blank line": Dress(between="\n"),
    "rules": Dress(between="\n\n---\n\n", before="---\n\n", after="\n\n---"),
    "stars": Dress(between="\n\n***\n\n", after="\n***"),
    "chatter before": Dress(before="Sure! Here are some new problems for the student, with answers:\n\n"),
    "chatter after": Dress(after="\n\nI hope these help the student. Let me know if you want more of them!"),
    "note after": Dress(after="\n\nNote: each of these trains the same skill as the question that failed."),
    "chatter between": Dress(aside="Now a slightly harder one.\n\n"),
    "fenced": Dress(whole="```\n{}\n```"),
    "fenced, with chatter": Dress(whole="Here you are:\n\n```markdown\n{}\n```\n\nGood luck!"),
    "indented": Dress(indent="   "),
    "quoted": Dress(indent="> "),
    "carriage returns": Dress(end="\r\n"),
    "spaces at line ends": Dress(end="  \n"),
    "emoji": Dress(head="📝 **Question {i}:** ", answer="✅ **Answer:** ", tests="🧪 **Tests:** "),
    "results in bold": Dress(marker="**#### {n}**", key="**{x}** - {why}"),
    "results bold inside": Dress(marker="#### **{n}**", key="**{x}.** {why}"),
    "results in words": Dress(marker="The final answer is {n}.", key="{x}\nExplanation: {why}"),
    "results boxed": Dress(marker="$$\\boxed{{{n}}}$$", key="({x}) {why}"),
    "results with units": Dress(marker="#### {n} units", key="Option {x} - {why}"),
    "results on one line": Dress(marker="So it is {n}. #### {n}", key="{x}) {text}. {why}"),
    "results after a blank line": Dress(marker="\n#### {n}", key="{x}\n\n**Explanation:** {why}"),
    "bullets": Dress(option="- {x}. {text}", step="- {step}", key="{x}: {why}"),
    "numbered steps": Dress(option="   {x}) {text}", step="{k}. {step}", key="{x}, because {why}"),
    "bracketed options": Dress(option="({x}) {text}", step="Step {k}: {step}"),
    "bold options": Dress(option="**{x}.** {text}", key="**{x}. {text}**\n{why}", step="**Step {k}:** {step}"),
    "options in a row": Dress(option="{x}) {text}", between_options="  ", step="* {step}"),
    "options under a head": Dress(options="Options:\n{}", step="({k}) {step}"),
    "small option letters": Dress(option="{small}) {text}", key="{small}) {why}", step="> {step}"),
    "cut": Dress(cut=True),
    "cut, bold": replace(BOLD, cut=True),
    "cut, headed": Dress(head="### Question {i}\n", answer="### Answer\n", tests="### Tests\n", cut=True),
    "cut, numbers alone": Dress(head="{i}. ", cut=True),
}  # fmt: skip

PARTS = (
    ("head", "answer", "tests"), ("option", "options", "between_options", "step"), ("key", "marker"),
    ("before_options", "before_answer", "between"), ("before", "after", "aside"), ("whole", "indent", "end"), ("cut",),
)  # fmt: skip
"""What `mixed` takes together from one dress."""


@dataclass(frozen=True)
class Drifted:
    """A reply, and the samples that a person would take from it."""

    kind: Kind
    shape: str
    text: str
    items: tuple[Item, ...]
    cut: bool


def replies(seed: int = 0, each: int = 2) -> Iterator[Drifted]:
    """`each` replies of 2 to 4 items for every kind and dress."""
    for kind in KINDS:
        for shape, dress in DRESSES.items():
            for at in range(each):
                rng = Random(f"{seed}/{kind}/{shape}/{at}")
                items = [MAKERS[kind](rng) for _ in range(rng.randint(2, 4))]
                yield dressed(kind, shape, dress, items, rng)


def mixed(seed: int, each: int = 100) -> Iterator[Drifted]:
    """`each` replies of every kind in dresses put together at random: heads of one, options of another, and so on."""
    for kind in KINDS:
        for at in range(each):
            rng = Random(f"mixed {seed}/{kind}/{at}")
            chosen = {names: rng.choice(list(DRESSES)) for names in PARTS}
            parts = {name: getattr(DRESSES[dress], name) for names, dress in chosen.items() for name in names}
            items = [MAKERS[kind](rng) for _ in range(rng.randint(2, 4))]
            yield dressed(kind, " + ".join(chosen.values()), Dress(**parts), items, rng)


def dressed(kind: Kind, shape: str, dress: Dress, items: list[Item], rng: Random) -> Drifted:
    """The items in this dress; where it is cut, somewhere inside the last one."""
    texts = [_item(kind, dress, item, i) for i, item in enumerate(items, 1)]
    asides = [dress.aside] * (len(texts) - 1) + [""]
    if dress.cut:
        texts[-1] = texts[-1][: rng.randrange(1, len(texts[-1]) - 3)]
        items = items[:-1]
    body = "".join(text + (dress.between + aside if i < len(texts) - 1 else "")
                   for i, (text, aside) in enumerate(zip(texts, asides, strict=True)))  # fmt: skip
    text = dress.whole.format(dress.before + body + dress.after)
    return Drifted(kind, shape, text.replace("\n", dress.end), tuple(items), dress.cut)


def _item(kind: Kind, dress: Dress, item: Item, i: int) -> str:
    parts = [dress.head.format(i=i), item.question if kind != "code" else f"\n```python\n{item.question}\n```"]
    answer, tests = dress.answer.format(i=i), dress.tests.format(i=i)
    if kind == "choice":
        shown = [dress.option.format(x=x, small=x.lower(), text=text) for x, text in item.options.items()]
        parts += [dress.before_options, dress.options.format(dress.between_options.join(shown))]
        key = dress.key.format(
            x=item.answer, small=item.answer.lower(), text=item.options[item.answer], why=item.lines[0]
        )
        parts += [dress.before_answer, answer + key]
    elif kind == "math":
        steps = [dress.step.format(step=step, k=k) for k, step in enumerate(item.lines, 1)]
        first = "" if answer.endswith("\n") or dress.step == "{step}" else "\n"
        parts += [dress.before_answer, answer + first + "\n".join([*steps, dress.marker.format(n=item.answer)])]
    else:
        parts += [dress.before_answer, f"{answer}\n```python\n{item.answer}\n```", dress.before_answer]
        parts += [f"{tests}\n```python\n" + "\n".join(item.tests) + "\n```"]
    text = "".join(parts)
    return "\n".join(dress.indent + line if n or dress.indent != "   " else line
                     for n, line in enumerate(text.split("\n")))  # fmt: skip


NAMES = ["Ada", "Bo", "Chen", "Dina", "Emeka", "Fay", "Gus", "Hana"]
THINGS = ["plums", "stamps", "tickets", "litres of milk", "T-shirts", "books"]


def math(rng: Random) -> Item:
    """A word problem; some of several lines, with money, thousands, decimals or a negative result."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b, c = rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 9)
    way = rng.randrange(5)
    if way == 0:
        question = f"{name} has {a} {thing} and buys {b} bags of {c} more. How many {thing} has {name} now?"
        steps = (f"The bags hold {b} x {c} = {b * c} {thing}.", f"Together that is {a} + {b * c} = {a + b * c}.")
        return Item(question, str(a + b * c), steps)
    if way == 1:
        question = f"A ticket costs ${a}.50. What do {c * 2} tickets cost in dollars?"
        total = (2 * a + 1) * c
        return Item(question, str(total), (f"{c * 2} tickets cost {c * 2} * ${a}.50 = ${total}.",))
    if way == 2:
        big = 1000 * a
        question = f"A factory makes {big:,} {thing} a day.\nIt runs {c} days a week.\nHow many does it make in a week?"
        return Item(question, str(big * c), (f"In a week it makes {big:,} * {c} = {big * c:,} {thing}.",))
    if way == 3:
        question = f"{name} runs {a} km on Monday and {b} km on Friday. What is the mean distance in km?"
        steps = (f"Altogether {a} + {b} = {a + b} km.", f"The mean is {a + b} / 2 = {(a + b) / 2:.1f} km.")
        return Item(question, f"{(a + b) / 2:.1f}", steps)
    question = f"It is {a} degrees at noon. By midnight it is {a + c} degrees colder. What is the temperature then?"
    return Item(question, str(-c), (f"From {a} it falls by {a + c}.", f"{a} - {a + c} = -{c}, below zero."))


FACTS = [
    ("Which of these planets is closest to the Sun?", "Mercury", ["Venus", "Mars", "Jupiter"],
     "It circles the Sun at about 58 million kilometres, closer than any other."),
    ("A court that reviews the decision of another court is said to have which jurisdiction?", "Appellate jurisdiction",
     ["Original jurisdiction", "Concurrent jurisdiction", "Exclusive jurisdiction"],
     "To review what another court decided is to hear an appeal."),
    ("What is the derivative of x^2 + 3x?", "2x + 3", ["x + 3", "2x", "x^3/3 + 3x^2/2"],
     "The power rule gives 2x for the square, and 3 for the linear term."),
    ("Which gas do plants take up for photosynthesis?", "Carbon dioxide, CO2", ["Oxygen, O2", "Nitrogen, N2", "Helium"],
     "Plants build sugar from it and water, with the energy of light."),
    ("Consider the statements:\nI. All squares are rectangles.\nII. All rectangles are squares.\nWhich hold?",
     "Only I", ["Only II", "Both I and II", "Neither I nor II"],
     "A square has four right angles, but a rectangle may have unequal sides."),
    ("A patient has a temperature of 39.5 °C. What is this called?", "A fever", ["Hypothermia", "A rash", "Anaemia"],
     "A body temperature above 38 °C counts as one."),
]  # fmt: skip


def choice(rng: Random) -> Item:
    """A question with four options; the explanation names none."""
    question, right, wrong, why = rng.choice(FACTS)
    texts = [right, *wrong]
    rng.shuffle(texts)
    options = dict(zip("ABCD", texts, strict=True))
    letter = next(x for x, text in options.items() if text == right)
    return Item(f"({rng.randint(10, 99)}) {question}" if rng.random() < 0.2 else question, letter, (why,), options)


FUNCTIONS = [
    ("times_{n}", "xs: list[int]", "list[int]", "Every number of xs times {n}.", "return [{n} * x for x in xs]",
     ["assert {f}([1, 2]) == [{n}, 2 * {n}]", "assert {f}([]) == []"]),
    ("add_{n}", "x: int", "int", "x and {n} together.", "result = x + {n}\n    return result",
     ["assert {f}(0) == {n}", "assert {f}(-{n}) == 0", "assert {f}(1) == {n} + 1"]),
    ("repeat_{n}", "text: str", "str", "The text {n} times, with a dash between.", 'return "-".join([text] * {n})',
     ['assert {f}("") == "-" * ({n} - 1)', 'assert {f}("a").count("a") == {n}']),
    ("multiples_{n}", "limit: int", "int", "How many multiples of {n} are below limit?\n\n    Zero is one of them.",
     "# Answer: count them\n    return len(range(0, limit, {n}))", ["assert {f}(0) == 0", "assert {f}({n} + 1) == 2"]),
]  # fmt: skip


def code(rng: Random) -> Item:
    """A function with a docstring, its source and asserts."""
    name, given, returns, says, body, tests = rng.choice(FUNCTIONS)
    n = rng.randint(2, 30)
    f = name.format(n=n)
    signature = f'def {f}({given}) -> {returns}:\n    """ {says.format(n=n)} """'
    source = f"def {f}({given}) -> {returns}:\n    {body.format(n=n)}"
    return Item(signature, source, tests=tuple(test.format(f=f, n=n) for test in tests))


MAKERS = {"math": math, "choice": choice, "code": code}
