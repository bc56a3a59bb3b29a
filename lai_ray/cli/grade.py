"""`lai grade`: grades recorded responses of any model.  benchmark's rows with a response -> rows with a verdict

The benchmark is a name, or a job file with a [[benchmark]] table: "jobs/mine.toml", "jobs/mine.toml:reviews". Rows are
the benchmark's own records plus `response`, in any upstream form. They are written in the same order, as JSON lines,
with `correct`, `answer`, `rule` and `status` added, and `further` where there is more than one score.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from lai_ray.benchmark_kinds.table_files import SUFFIXES, Row, read_rows
from lai_ray.benchmark_kinds.user_base import UserBenchmark
from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.common import plugins
from lai_ray.config import job_file
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
    """A benchmark with its files in a folder; "JOB.toml" or "JOB.toml:NAME" is a user's own data in a job.

    Raises ConfigError when either does not exist, or it has no files.
    """
    job, is_job, own = name.partition(".toml")
    if is_job and folder is not None:
        raise ConfigError("--data goes with a built-in benchmark; the files of a job's own data are named in the job")
    if is_job:
        return _own(Path(f"{job}.toml"), own.removeprefix(":"))
    if name.endswith(SUFFIXES):
        raise ConfigError(
            f"{name} is a file of rows; name the job whose [[benchmark]] table describes its columns: "
            "lai grade jobs/mine.toml"
        )
    loaded: Any = plugins.load("benchmarks", name)
    if folder is not None and loaded.source is None:
        raise ConfigError(f"--data {name}: this benchmark has no files; leave it out")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--data {folder}: no such folder")
    return cast(Benchmark, loaded if folder is None else replace(loaded, source=str(folder)))


def _own(job: Path, name: str) -> Benchmark:
    """A user's own data in a job file, of which only [[benchmark]] and [sandbox] are read."""
    table = job_file.read_table(job)
    named = [one.get("name") for one in table.get("benchmark", ()) if isinstance(one, dict)]
    parts = {part: table[part] for part in ("benchmark", "sandbox") if part in table}
    ignored = {"iterations": 0, "name": "grade", "target": {"model": "none"}, "evaluate": {"report_on": named}}
    config = job_file.parse(ignored | parts, where=str(job))
    names = [settings.name for settings in config.benchmark]
    wanted = name or (names[0] if len(names) == 1 else "")
    if wanted not in names:
        there = f"There are: {', '.join(names)}. Name one: {job}:{names[0]}" if names else "It has none"
        raise ConfigError(f"{job}: {f'no [[benchmark]] {name!r}' if name else 'no [[benchmark]] is named'}. {there}.")
    return user_benchmark(config.benchmark[names.index(wanted)], config.sandbox.min_tier)


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
    if isinstance(benchmark, UserBenchmark):
        how = replace(how, min_tier=benchmark.min_tier)
        problems = list(benchmark.checked(problems))
    if not problems:
        raise DataError(f"{responses}: no rows")
    summary = Summary()
    gold = benchmark.settings.answer if isinstance(benchmark, UserBenchmark) else "answer"
    partial = out.with_name(f".{out.name}.part")
    opened = gzip.open if out.name.endswith(".gz") else open
    try:
        with opened(partial, "wb") as file:
            for row, problem in problems:
                grade = _verdict(benchmark, row, problem, how)
                summary.add(grade, benchmark.group(problem))
                file.write(_line(row.record, grade, gold))
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


def _line(record: dict[str, Any], grade: Grade, gold: str) -> bytes:
    reference = gold if gold in ADDED else "answer"
    own = {name: value for name, value in record.items() if name == reference or name != "correct"}
    kept = {("gold" if name == reference else name): value for name, value in own.items()}
    verdict = {"correct": grade.score >= 1.0, "answer": grade.answer, "rule": grade.rule, "status": grade.status}
    more = {"note": grade.note} if grade.note else {}
    line = kept | verdict | more | ({"further": grade.further} if grade.further else {})
    try:
        return (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot hold
        return (json.dumps(line, default=str) + "\n").encode()
