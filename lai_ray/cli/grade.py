"""`lai grade`: grades recorded responses of any model.  benchmark's rows with a response -> rows with a verdict

Rows are the benchmark's own records plus `response`, in any upstream form. They are written in the same order, as JSON
lines, with `correct`, `answer`, `rule` and `status` added, and `further` where there is more than one score.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from lai_ray.benchmark_kinds.table_files import SUFFIXES, Row, read_rows
from lai_ray.common import plugins
from lai_ray.contracts import Benchmark, Grading
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Grade, Problem
from lai_ray.report.tables import Table
from lai_ray.stages.evaluate import grade_of

ADDED = ("correct", "answer", "rule", "status")
"""Fields added to a graded row. The row's own `answer`, the reference, is kept as `gold`."""


@dataclass
class Summary:
    """Counts over all rows, updated while they are written."""

    n: int = 0
    right: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    further: Counter[str] = field(default_factory=Counter)
    groups: dict[str, list[int]] = field(default_factory=dict)

    def add(self, grade: Grade, group: str) -> None:
        """Count one verdict."""
        self.n += 1
        self.right += grade.score >= 1.0
        self.statuses[grade.status] += 1
        self.rules[grade.rule] += 1
        self.further.update(grade.further)
        counts = self.groups.setdefault(group, [0, 0])
        counts[0] += grade.score >= 1.0
        counts[1] += 1

    def tables(self, title: str) -> list[Table]:
        """All rows, then by group where there are several."""
        counts = {"right": self.right, **self.further, **self.statuses}
        counts |= {f"found by {rule}": n for rule, n in self.rules.most_common()}
        rows = [["all", str(self.n), ""], *([name, f"{n:g}", f"{n / self.n:.2%}"] for name, n in counts.items())]
        whole = Table(title, ["", "rows", "of all"], rows)
        by_group = Table("By group", ["group", "rows", "right", "share"])
        by_group.rows = [[g, str(n), str(r), f"{r / n:.1%}"] for g, (r, n) in sorted(self.groups.items())]
        return [whole, by_group] if len(self.groups) > 1 else [whole]


def rules_named(name: str) -> Grading:
    """The grading of `--rules`. Raises ConfigError for an unknown name."""
    if name not in ("default", "paper"):
        raise ConfigError(f"--rules {name!r} does not exist; there are default and paper")
    return Grading(rules="paper" if name == "paper" else "default")


def benchmark_named(name: str, folder: Path | str | None) -> Benchmark:
    """A benchmark with its files in a folder. Raises ConfigError when either does not exist, or it has no files."""
    loaded: Any = plugins.load("benchmarks", name)
    if folder is not None and loaded.source is None:
        raise ConfigError(f"--data {name}: this benchmark has no files; leave it out")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--data {folder}: no such folder")
    return cast(Benchmark, loaded if folder is None else replace(loaded, source=str(folder)))


def grade_file(
    benchmark: Benchmark,
    responses: Path,
    out: Path,
    how: Grading,
) -> Summary:
    """Grade every row of a file into another; `out` is complete or does not exist.

    Raises ConfigError for a wrong path, DataError with the line for a wrong row.
    """
    _check_paths(responses, out)
    problems = [_problem(benchmark, row, i) for i, row in enumerate(read_rows(responses))]
    if not problems:
        raise DataError(f"{responses}: no rows")
    summary = Summary()
    partial = out.with_name(f".{out.name}.part")
    opened = gzip.open if out.name.endswith(".gz") else open
    try:
        with opened(partial, "wb") as file:
            for row, problem in problems:
                grade = _verdict(benchmark, row, problem, how)
                summary.add(grade, benchmark.group(problem))
                file.write(_line(row.record, grade))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return summary


def _check_paths(responses: Path, out: Path) -> None:
    if not responses.is_file():
        near = sorted(p.name for p in responses.parent.glob("*")) if responses.parent.is_dir() else []
        raise ConfigError(
            f"{responses}: no such file. In its folder: {', '.join(near[:8]) or 'nothing, or no folder'}."
        )
    if not responses.name.endswith(SUFFIXES):
        raise ConfigError(f"{responses}: the file type must be one of {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name the file to write")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist")
    if out.exists() and out.samefile(responses):
        raise ConfigError(f"{out}: this is the file of responses; name another file to write")


def _problem(benchmark: Benchmark, row: Row, number: int) -> tuple[Row, Problem]:
    """A row with its problem. Raises DataError with the line."""
    if "response" not in row.record:
        raise DataError(f"{row.where}: no field 'response' in this row; it has {', '.join(row.record)}")
    if not isinstance(row.record["response"], str):
        raise DataError(f"{row.where}: the response is {type(row.record['response']).__name__}, not a text")
    try:
        return row, benchmark.problem(row.record, "test", number)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _verdict(benchmark: Benchmark, row: Row, problem: Problem, how: Grading) -> Grade:
    return grade_of(benchmark, problem, row.record["response"], how)


def _line(record: dict[str, Any], grade: Grade) -> bytes:
    kept = {("gold" if name == "answer" else name): value for name, value in record.items() if name not in ADDED[:1]}
    verdict = {"correct": grade.score >= 1.0, "answer": grade.answer, "rule": grade.rule, "status": grade.status}
    more = {"note": grade.note} if grade.note else {}
    line = kept | verdict | more | ({"further": grade.further} if grade.further else {})
    try:
        return (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot hold
        return (json.dumps(line, default=str) + "\n").encode()
