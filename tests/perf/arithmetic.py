"""The figures of docs/results/checks.md for the arithmetic check, on GSM8K's training solutions.

LAI_TEST_DATA=DATA python -m tests.perf.arithmetic [--list]

False alarms: solutions, their <<...>> annotations stripped, in which the check finds a false statement. Planted errors:
in each solution one random prose equation ("... = <<a*b=c>>c": the annotations say where one is) gets another result;
it is caught where the check finds a false statement that it did not find before. The forms are told from the prose by
searches of their own, not by the check.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lai_ray.grading.arithmetic_check import false_statements

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
TRAIN = DATA / "gsm8k/openai/train.jsonl.gz"
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_EQUATION = re.compile(r"(?P<left>[^\n=]*)=\s*[$]?\s*<<[^<>]*>>\s*[$]?(?P<result>\d[\d,]*(?:\.\d+)?|\.\d+)")
_CLAUSE = re.compile(r"(?:.*[.;:,?!] )?(.*)", re.S)
_OPERATOR = re.compile(r"[-+*/x×÷−](?=[\s$(.\d])")
FORMS = {
    "percent": re.compile(r"%"),
    "brackets": re.compile(r"[()\[\]]"),
    "words between": re.compile(r"\d[\d.,%]*\s*[-/]?\s*(?!x\b)[A-Za-z]{2,}.*[-+*/x×÷−]"),
    "currency": re.compile(r"\$"),
    "decimals": re.compile(r"\d\.\d|(?<!\d)\.\d"),
    "thousands": re.compile(r"\d,\d{3}"),
}


@dataclass(frozen=True)
class Equation:
    """A prose equation of a solution: where its result stands in the annotated text, and its form."""

    start: int
    end: int
    form: str


def solutions() -> list[str]:
    """Annotated, as upstream has them."""
    with gzip.open(TRAIN, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["answer"] for line in lines]


def stripped(solution: str) -> str:
    """Without the annotations."""
    return _ANNOTATION.sub("", solution)


def equations(solution: str) -> Iterator[Equation]:
    """The prose equations: "a op b = c" with the result where an annotation says."""
    for match in _EQUATION.finditer(solution):
        left = _CLAUSE.fullmatch(stripped(match["left"]))
        clause = left[1] if left else ""
        chained = solution[: match.start("left")].endswith("=") or solution[match.end() :].lstrip().startswith("=")
        operands = re.findall(r"\d+", clause)
        if not (len(operands) > 1 and _OPERATOR.search(clause)):
            form = "no operation left of ="
        elif chained:
            form = "chained"
        else:
            form = next((name for name, search in FORMS.items() if search.search(clause)), "plain")
        yield Equation(match.start("result"), match.end("result"), form)


def another(result: str, rng: Random) -> str:
    """Another number than `result`, as slips go: a digit changed, the last place one off, two digits swapped."""
    places = [i for i, sign in enumerate(result) if sign.isdigit()]
    while True:
        digits = list(result)
        way = rng.choice(["digit", "last", "swap"])
        if way == "digit":
            digits[rng.choice(places)] = str(rng.randrange(10))
        elif way == "last":
            digits[places[-1]] = str((int(digits[places[-1]]) + rng.choice([1, 9])) % 10)
        elif len(places) > 1:
            at = rng.randrange(len(places) - 1)
            one, other = places[at], places[at + 1]
            digits[one], digits[other] = digits[other], digits[one]
        made = "".join(digits)
        if float(made.replace(",", "")) != float(result.replace(",", "")):
            return made


@dataclass(frozen=True)
class Planted:
    """One solution with an error, and whether that was caught."""

    row: int
    form: str
    text: str
    caught: bool


def planted(rows: list[str], seed: int = 0) -> Iterator[Planted]:
    """One error in a random prose equation of each solution that has one with an operation."""
    for row, solution in enumerate(rows):
        candidates = [equation for equation in equations(solution) if equation.form != "no operation left of ="]
        if not candidates:
            continue
        rng = Random(f"{seed}/{row}")
        chosen = rng.choice(candidates)
        wrong = another(solution[chosen.start : chosen.end], rng)
        text = stripped(solution[: chosen.start] + wrong + solution[chosen.end :])
        before = Counter(false_statements(stripped(solution)))
        yield Planted(row, chosen.form, text, bool(Counter(false_statements(text)) - before))


def alarms(rows: list[str]) -> dict[int, list[str]]:
    """Row -> the statements that the check reports as false."""
    return {row: false for row, solution in enumerate(rows) if (false := false_statements(stripped(solution)))}


def main() -> None:
    """Print every figure; with --list, what was flagged and missed too."""
    rows = solutions()
    flagged = alarms(rows)
    print(f"solutions flagged as they stand: {len(flagged)} of {len(rows)} ({len(flagged) / len(rows):.2%})")
    for seed in range(3):
        all_of, caught = Counter[str](), Counter[str]()
        missed = []
        for each in planted(rows, seed):
            all_of[each.form] += 1
            caught[each.form] += each.caught
            if not each.caught:
                missed.append(each)
        n, total = sum(caught.values()), sum(all_of.values())
        print(f"seed {seed}: caught {n} of {total} ({n / total:.1%}); without a prose equation: {len(rows) - total}")
        for form, count in all_of.most_common():
            print(f"  {form:16} {caught[form]:5} of {count:5}  {caught[form] / count:.1%}")
        if "--list" in sys.argv and not seed:
            for row, statements in flagged.items():
                print("flagged", row, statements)
            for each in Random(1).sample(missed, min(60, len(missed))):
                print("missed", each.row, each.form, repr(each.text))


if __name__ == "__main__":
    main()
