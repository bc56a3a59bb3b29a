"""The figures of docs/results/contamination.md.

    LAI_TEST_DATA=FOLDER python -m tests.perf.near_copies speed|total|quickstart|table5|mmlu|alarms|planted [NAME]

FOLDER holds the upstream files as shared/data does. `alarms NAME` prints every training problem that the gates take for
a copy, with the test question beside it, for a person to read.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lai_ray.benchmark_kinds.table_files import read_rows
from lai_ray.cli.contamination import read
from lai_ray.common import plugins
from lai_ray.records import Problem
from lai_ray.stages.curation.contamination import SAME, EvaluationSets
from lai_ray.stages.curation.evaluation_sets import nearness, sets_of
from lai_ray.stages.curation.rouge import References, code_of, coded, rouge_l
from lai_ray.stages.curation.words import options, whole, words
from lai_ray.stages.select import Part

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
PLACES = {
    "gsm8k": "gsm8k/openai", "gsm_plus": "gsm_plus/lai", "mmlu": "mmlu/lai", "arc_challenge": "arc_challenge/lai",
    "bbh": "bbh", "mbpp": "mbpp/lai", "humaneval": "humaneval/lai",
}  # fmt: skip
GPT4 = DATA / "lai_generated_train/mistral_LaI_LEC_raw_k_2_train_4000.jsonl.gz"


@dataclass(frozen=True)
class Prompts:
    """mbpp and humaneval by their prompts alone, where their loaders are not there."""

    name: str
    splits: tuple[str, ...]

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        file = "test.jsonl" if self.name == "humaneval" else f"{split}_refined_data.jsonl"
        return (row.record for row in read_rows(DATA / PLACES[self.name] / file))

    def problem(self, record: dict[str, Any], split: str, row: int) -> Problem:
        return Problem(f"{self.name}/{split}/{row:05d}", self.name, split, record["prompt"], "")

    def prompt(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": problem.question}]

    def brief(self) -> str:
        return ""

    def show(self, problem: Problem) -> str:
        return problem.question


def benchmark(name: str) -> Any:
    if name not in plugins.available("benchmarks"):
        return Prompts(name, ("train", "test") if name == "mbpp" else ("test",))
    found = plugins.load("benchmarks", name)
    return replace(found, source=str(DATA / PLACES[name])) if name in PLACES else found


def part(name: str, split: str = "test") -> Part:
    return Part(benchmark(name), split, None, 0)


def everything() -> EvaluationSets:
    """Every evaluation set that there is, the built-in ones too."""
    built_in = [
        part(n, s) for n, s in (("word_problems", "dev"), ("word_problems", "test"), ("word_problems_plus", "test"))
    ]
    return sets_of([*(part(name) for name in PLACES), *built_in])


def speed() -> None:
    """2,000 real pairs: GPT-4 samples and GSM8K test questions; ids and lists made beforehand; medians of five."""
    from rouge_score.rouge_scorer import _score_lcs

    rng = random.Random(0)
    ours = [words(p.question) for p in read(GPT4)[:2000]]
    theirs = rng.choices([words(p.question) for p in part("gsm8k")], k=2000)
    code = code_of(theirs)
    a, b = [coded(t, code) for t in ours], [coded(t, code) for t in theirs]
    reference = np.array([_score_lcs(two, one).fmeasure for one, two in zip(ours, theirs, strict=True)])
    print("largest difference", np.abs(rouge_l(a[:500], b[:500]).diagonal() - reference[:500]).max())
    slow = _median(lambda: [_score_lcs(two, one).fmeasure for one, two in zip(ours, theirs, strict=True)], 3)
    references = References.of({"x": theirs})
    block = _median(lambda: list(references.nearest(ours[:200])), 3)
    print(f"rouge-score {slow / 2000 * 1e6:.1f} us a pair")
    print(f"ours, from words, {block / 400_000 * 1e6:.3f} us a pair ({slow / 2000 / (block / 4e5):.0f} x)")


def total() -> None:
    """9,000 samples with about 25,000 evaluation questions, one thread."""
    started = time.perf_counter()
    references = References.of({n: [words(p.question) for p in part(n)] for n in PLACES})
    made = time.perf_counter() - started
    pool = [words(p.question) for p in [*read(GPT4), *part("gsm8k", "train")]]
    samples = (pool * 2)[:9000]
    started = time.perf_counter()
    found = list(references.nearest(samples))
    spent = time.perf_counter() - started
    pairs = len(samples) * len(references)
    print(f"{len(found)} x {len(references)} = {pairs / 1e6:.0f} million pairs in {spent:.1f} s: "
          f"{spent / pairs * 1e6:.3f} us a pair; references read and coded in {made:.1f} s")  # fmt: skip


def quickstart() -> None:
    """What curate adds in the quickstart: 1,200 samples against 4,158 questions."""
    samples = [p for p, _ in zip(part("word_problems", "train"), range(1200), strict=False)]
    list(part("word_problems", "test"))  # loaded by then
    started = time.perf_counter()
    sets = sets_of(
        [part(n, s) for n, s in (("word_problems", "dev"), ("word_problems", "test"), ("word_problems_plus", "test"))]
    )
    built = time.perf_counter() - started
    started = time.perf_counter()
    copies = sum(sets.copied(p) is not None for p in samples)
    gate = time.perf_counter() - started
    started = time.perf_counter()
    table = nearness(lambda: ((p, True) for p in samples), sets)
    print(f"sets {built:.2f} s, gate {gate:.2f} s ({copies} copies), Table 5 {time.perf_counter() - started:.2f} s",
          {name: round(of["all"]["mean"], 3) for name, of in table.items()})  # fmt: skip


def table5() -> None:
    """The 4,000 GPT-4 samples against GSM8K and GSM-Plus, by tokenisation."""
    from nltk.stem.porter import PorterStemmer
    from rouge_score.tokenize import tokenize

    stemmer = PorterStemmer()
    ways: dict[str, Callable[[str], Sequence[str]]] = {
        "ours: words and numbers, folded": words,
        "rouge-score, no stemmer": lambda text: tokenize(text, None),
        "rouge-score, stemmer": lambda text: tokenize(text, stemmer),
        "white space, lower case": lambda text: text.lower().split(),
        "white space": str.split,
        "words and punctuation, case kept": re.compile(r"\w+|[^\w\s]").findall,
    }
    samples = read(GPT4)
    for name, tokens in ways.items():
        sets = References.of({n: [tokens(p.question) for p in part(n)] for n in ("gsm8k", "gsm_plus")})
        found = list(sets.nearest(tokens(p.question) for p in samples))
        print(f"{name}: " + ", ".join(f"{n} {100 * np.mean([f[n][0] for f in found]):.2f}" for n in sets.sets))


def mmlu() -> None:
    """MMLU dev and val questions that also stand, options and all, in MMLU test."""
    sets = sets_of([part("mmlu")])
    tests = list(part("mmlu"))
    raw = {(p.question, *options(p)) for p in tests}
    folded = {_folded(p) for p in tests}
    train = list(part("mmlu", "train"))
    same = [p for p in train if (c := sets.copied(p)) and c.why == SAME]
    equal = [p for p in train if (p.question, *options(p)) in raw]
    print(f"{len(equal)} by raw equality, {sum(p in same for p in equal)} of them found")
    print(f"{sum(_folded(p) in folded for p in train)} with case and spaces folded; {len(same)} by the gate")
    for p in same:
        if p not in equal:
            copy = sets.copied(p)
            print("added:", p.id, copy.question if copy else "", "|", whole(p)[:160].replace("\n", " / "))


def _folded(problem: Problem) -> str:
    return "\n".join(" ".join(text.casefold().split()) for text in (problem.question, *options(problem)))


def alarms(name: str | None = None) -> None:
    """What the gates take for a copy among the benchmarks' own training problems."""
    sets = everything()
    texts = {p.id: whole(p) for found in sets.problems.values() for p in found}
    for each in [name] if name else ["gsm8k", "mmlu", "mbpp", "word_problems"]:
        problems = list(part(each, "train"))
        copies = [(p, c) for p in problems if (c := sets.copied(p)) is not None]
        print(f"{each}: {len(copies)} of {len(problems)}: {dict(Counter((c.set, c.why) for _, c in copies))}")
        for p, c in copies if name else []:
            print(f"\n{p.id} = {c.question} ({c.why}: {c.words})\n  {whole(p)!r}\n  {texts[c.question]!r}")


def planted() -> None:
    """How many of 300 copies of each kind are found, set by set."""
    sets = everything()
    for name in PLACES:
        rng = random.Random(0)
        questions = list(part(name))
        chosen = rng.sample(questions, min(300, len(questions)))
        cells = []
        for kind, change in KINDS.items():
            made = [copy for p in chosen if (copy := change(p, rng)) is not None]
            found = sum(sets.copied(copy) is not None for copy in made)
            cells.append(f"{kind} {found}/{len(made)}")
        print(f"{name}: " + ", ".join(cells), flush=True)


def _texts(problem: Problem, change: Callable[[str], str]) -> Problem:
    """The change made to question and options."""
    choices = problem.extra.get("choices")
    changed = {label: change(text) for label, text in choices.items()} if choices else None
    return replace(problem, question=change(problem.question), extra={"choices": changed} if changed else {})


def _one_word(problem: Problem, rng: random.Random) -> Problem | None:
    spans = [m.span() for m in re.finditer(r"[A-Za-z]{3,}", problem.question)]
    if not spans:
        return None
    start, end = rng.choice(spans)
    return replace(problem, question=f"{problem.question[:start]}zebra{problem.question[end:]}")


def _numbers(problem: Problem, rng: random.Random) -> Problem | None:
    changed = re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(1, 9)), problem.question)
    return None if changed == problem.question else replace(problem, question=changed)


def _swapped(problem: Problem, rng: random.Random) -> Problem | None:
    sentences = re.split(r"(?<=[.?!])\s+", problem.question.strip())
    order = sentences[1:] + sentences[:1]
    return None if len(sentences) < 2 or order == sentences else replace(problem, question=" ".join(order))


def _embedded(problem: Problem, long: bool) -> Problem | None:
    if (len(words(problem.question)) >= 13) != long:
        return None
    around = f"My neighbour asked me this at breakfast. {problem.question} Please explain every step to a beginner."
    return replace(problem, question=around, extra={})


KINDS: dict[str, Callable[[Problem, random.Random], Problem | None]] = {
    "exact": lambda p, rng: p,
    "recased": lambda p, rng: _texts(p, str.upper),
    "re-spaced": lambda p, rng: _texts(p, lambda text: " \n ".join(text.split())),
    "one word changed": _one_word,
    "numbers changed": _numbers,
    "sentences swapped": _swapped,
    "embedded, 13 words or more": lambda p, rng: _embedded(p, True),
    "embedded, shorter": lambda p, rng: _embedded(p, False),
}


def _median(work: Callable[[], Any], times: int) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return sorted(spent)[times // 2]


FIGURES: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (speed, total, quickstart, table5, mmlu, alarms, planted)
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in FIGURES:
        raise SystemExit(__doc__)
    FIGURES[sys.argv[1]](*sys.argv[2:])
