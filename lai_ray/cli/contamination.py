"""`lai contamination`: copies of evaluation questions among any samples, and their ROUGE-L.  file, benchmarks -> report

from lai_ray.cli.contamination import check
report = check(problems, ["mmlu", "gsm8k"], data={"mmlu": "/data/mmlu", "gsm8k": "/data/gsm8k"})
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lai_ray.benchmark_kinds.table_files import Row, read_rows
from lai_ray.cli.grade import benchmark_named
from lai_ray.common import plugins
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import GENERATED, Problem
from lai_ray.report.contamination import cells
from lai_ray.report.tables import Table
from lai_ray.stages.curation.contamination import EvaluationSets
from lai_ray.stages.curation.evaluation_sets import TOKENS, nearness, sets_of
from lai_ray.stages.curation.rouge import Map
from lai_ray.stages.select import Part
from lai_ray.storage.keys import decode

QUESTION = ("question", "problem", "prompt", "instruction")
"""Fields of a foreign sample that may hold its question; the first that exists is taken."""
LOCAL_PAIRS = 200_000_000
"""Pairs up to which this process compares without Ray: about a minute."""


def check(problems: Sequence[Problem], against: list[str], *, data: dict[str, str], each: Map = map) -> dict[str, Any]:
    """Copies by rule and the distribution of ROUGE-L of these problems against the dev and test splits of benchmarks.

    data: where a benchmark's files are, by name.  Raises ConfigError for a benchmark that cannot be loaded.
    """
    return _checked(problems, evaluation_sets(against, data), each)


def check_file(
    path: Path, against: list[str], *, data: dict[str, str], cluster: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """The same for a file of samples; above 2e8 pairs, or with a cluster, Ray does the comparing.

    Raises DataError for a file without samples, with the line of the first row that is not one.
    """
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.parent}; create it first")
    problems, sets = read(path), evaluation_sets(against, data)
    if cluster is None and len(problems) * sum(sets.sizes.values()) <= LOCAL_PAIRS:
        report = _checked(problems, sets, map)
    else:
        from lai_ray.distributed.executor import without_job

        executor = without_job(cluster)
        try:
            report = _checked(problems, sets, executor.map)
        finally:
            executor.close()
    report = {"file": str(path), **report}
    if out is not None:
        out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return report


def evaluation_sets(against: list[str], data: dict[str, str]) -> EvaluationSets:
    """The dev and test splits of benchmarks. Raises ConfigError for an unknown name, in `against` or `data`."""
    names = list(dict.fromkeys(name.strip() for name in against if name.strip()))
    if not names:
        raise ConfigError(f"--against is empty; choose from {', '.join(plugins.available('benchmarks'))}")
    if foreign := set(data) - set(names):
        raise ConfigError(f"--data {', '.join(sorted(foreign))}: not among --against {', '.join(names)}")
    benchmarks = [benchmark_named(name, data.get(name)) for name in names]
    return sets_of(
        [Part(each, split, None, 0) for each in benchmarks for split in ("dev", "test") if split in each.splits]
    )


def folders(given: Iterable[str]) -> dict[str, str]:
    """Parse "name=FOLDER" into folders by name. Raises ConfigError for other forms."""
    result = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise ConfigError(f"--data {text!r}: write name=FOLDER, as in gsm8k=/data/gsm8k")
        result[name] = folder
    return result


def read(path: Path) -> list[Problem]:
    """The problems of a file of samples: a run's samples.jsonl, or rows with a question (and choices, or A to D)."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. Name a run's samples.jsonl, or a JSON(L) file of questions.")
    problems = [_problem(row, number) for number, row in enumerate(read_rows(path))]
    if not problems:
        raise DataError(f"{path} holds no samples")
    return problems


def _problem(row: Row, number: int) -> Problem:
    record = row.record
    if isinstance(record.get("problem"), dict):
        try:
            return decode(json.dumps(record["problem"]).encode(), Problem)
        except ValueError as error:
            raise DataError(f"{row.where}: its `problem` is not a lai-ray problem: {error}") from error
    question = next((record[name] for name in QUESTION if isinstance(record.get(name), str)), None)
    if question is None:
        fields = ", ".join(map(str, record)) or "no field"
        raise DataError(f"{row.where}: no text in {', '.join(QUESTION)}; the row has {fields}")
    choices = record.get("choices") or record.get("options")
    if not isinstance(choices, list | dict):
        choices = {letter: str(record[letter]) for letter in "ABCDE" if letter in record}
    extra = {"choices": choices} if choices else {}
    return Problem(f"row {number}", "samples", GENERATED, question, "", extra)


def _checked(problems: Sequence[Problem], sets: EvaluationSets, each: Map) -> dict[str, Any]:
    asked = [problem for problem in problems if problem.question.strip()]
    copies = [(problem, copy) for problem in asked if (copy := sets.copied(problem)) is not None]
    copied = {problem.id for problem, _ in copies}
    why = Counter((copy.set, copy.why) for _, copy in copies)
    return {
        "samples": len(asked),
        "without_question": len(problems) - len(asked),
        "questions": sets.sizes,
        "copies": {name: {rule: n for (of, rule), n in why.items() if of == name} for name in sets.sizes},
        "clear": len(asked) - len(copied),
        "copied": [{"sample": problem.id, **asdict(copy)} for problem, copy in copies],
        "tokens": TOKENS,
        "rouge_l": nearness(lambda: ((p, p.id not in copied) for p in asked), sets, each),
    }


def table(report: dict[str, Any]) -> Table:
    """The report for the terminal."""
    clear = f"{report['clear']} of {report['samples']} samples are not copies"
    empty = f"; {report['without_question']} rows without a question were skipped"
    result = Table(
        f"{report['file']}: ROUGE-L, percent",
        ["set", "questions", "copies", "mean", "median", "p90", "p99", "max"],
        note=f"Copies are found by their words. {clear}{empty if report['without_question'] else ''}.",
    )
    for name, size in report["questions"].items():
        near = report["rouge_l"].get(name, {"all": {"n": 0}})["all"]
        copies = str(sum(report["copies"][name].values()))
        result.rows.append([name, str(size), copies, *cells(near, "mean", "median", "p90", "p99", "max")])
    return result
