"""The instructor's explanations of mistakes as a sheet for human judgement.  run -> sheet -> (judged) -> agreement

A sheet is a CSV file that any spreadsheet opens. The texts come from models: a cell that a spreadsheet would run as a
formula is prefixed with an apostrophe.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lai_ray.common.intervals import score
from lai_ray.common.plugins import suggestion
from lai_ray.common.screen import printable
from lai_ray.errors import ConfigError, DataError
from lai_ray.instructor.prompts.built_in import explained
from lai_ray.records import Case, Problem, Reply
from lai_ray.report.tables import Table
from lai_ray.storage.keys import number_of
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store, View

VERDICT = "is the explanation right? (yes or no)"
COLUMNS = ("id", "question", "wrong answer", "right answer", "explanation", VERDICT)
YES, NO = ("yes", "y", "true", "1"), ("no", "n", "false", "0")
LONGEST = 32_000
"""Characters of a cell; spreadsheets hold 32,767."""
_FORMULA = re.compile(r"[\s\x00-\x1f\ufeff]*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[-+]?\d[\d,.]*")


@dataclass(frozen=True)
class Sheet:
    """Counts of a sheet that was written."""

    rows: int
    explained: int
    """Mistakes with an explanation in the whole run."""
    unexplained: int
    """Mistakes whose reply has none."""


def write_sheet(run: Run, count: int, out: Path, seed: int | None = None) -> Sheet:
    """Write `count` explained mistakes of a run, in seeded order, each with an empty cell for yes or no.

    seed: the run's own when None.  When there are fewer than `count`, all are written.  Raises ConfigError when `count`
    < 1, the run has no explanation, or `out` exists (a sheet may hold judgements) or its folder does not.
    """
    if count < 1:
        raise ConfigError(f"--annotate {count}: the number of mistakes must be at least 1")
    if out.exists():
        raise ConfigError(f"{out} exists and may hold judgements; name another file, or move it away")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist")
    replies = {_name(s, run, r): explained(r.completion.text).mistake is not None for s, r in _first(run)}
    with_line = [name for name, has_line in replies.items() if has_line]
    if not with_line:
        raise ConfigError(
            f"{run.store.where}: none of {len(replies)} replies explains the mistake. Only le and lec ask for it, with "
            "instructor.explain = true: run the job with it under another name and --reuse this run."
        )
    chosen_seed = run.record()["config"]["seed"] if seed is None else seed
    chosen = sorted(with_line, key=lambda name: (number_of(chosen_seed, name), name))[:count]
    rows = dict(_rows(run, set(chosen)))
    text = io.StringIO()
    sheet = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    sheet.writerow(COLUMNS)
    sheet.writerows([cell(value) for value in (name, *rows[name], "")] for name in chosen)
    out.write_bytes(text.getvalue().encode("utf-8-sig", "replace"))  # The mark tells spreadsheets that it is UTF-8.
    return Sheet(len(chosen), len(with_line), len(replies) - len(with_line))


def cell(text: str) -> str:
    """A text as a cell: never a formula, never longer than a spreadsheet allows. A plain number is unchanged."""
    text = "\r".join(map(printable, text.replace("\x00", "").split("\r")))  # A return is harmless in a cell.
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} … (cut; the run has all of it)"
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def agreement(path: Path, confidence: float = 0.95) -> Table:
    """The share of explanations judged right, with Wilson's interval; a row with an empty cell is not judged.

    Raises ConfigError when the file does not exist, DataError when it is not a sheet, a judgement is neither yes nor
    no, an id is repeated, or no row is judged.
    """
    counts = Counter(_judgements(path))
    judged = counts["yes"] + counts["no"]
    if not judged:
        raise DataError(f"{path}: no row is judged; write yes or no in the column {VERDICT!r}")
    share = score(counts["yes"], judged, confidence)
    table = Table(
        f"Explanations judged right: {path.name}",
        ["judged", "right", "share", f"{confidence:.0%} interval (Wilson)", "not judged"],
    )
    interval = f"{share.low:.1%} to {share.high:.1%}"
    table.rows = [[str(judged), str(counts["yes"]), f"{share.value:.1%}", interval, str(counts[""])]]
    return table


def _judgements(path: Path) -> Iterator[str]:
    """ "yes", "no" or "" of each row."""
    seen: set[str] = set()
    for number, row in enumerate(_read(path), start=1):
        name, verdict = (row["id"] or "").strip(), (row[VERDICT] or "").strip().casefold()
        if not name and not verdict:
            continue  # A spreadsheet may leave rows of only commas.
        if name in seen:
            raise DataError(f"{path}: row {number}: {name!r} appears twice; keep one judgement of each mistake")
        seen.add(name)
        if verdict and verdict not in (*YES, *NO):
            raise DataError(
                f"{path}: row {number}, {name}: {verdict!r} is neither yes nor no; leave it empty if unsure"
            )
        yield "yes" if verdict in YES else "no" if verdict in NO else ""


def _read(path: Path) -> Iterator[dict[str, str | None]]:
    """The rows. The delimiter is detected, as a spreadsheet may have saved the sheet with ; or tabs."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        raise ConfigError(
            f"{path}: no such file. {suggestion(path.name, near)}Sheets in its folder: {', '.join(near) or 'none'}."
        )
    text = path.read_bytes().decode("utf-8-sig", "replace")
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        columns = reader.fieldnames or []
        if missing := [name for name in ("id", VERDICT) if name not in columns]:
            raise DataError(
                f"{path}: no column {missing[0]!r}; the first row has {', '.join(columns) or 'nothing'}. Keep it as "
                "`lai export RUN --annotate N` writes it."
            )
        yield from reader
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not CSV: {error}") from error


def _first(run: Run) -> Iterator[tuple[Store, Reply]]:
    """The first reply to each mistake, with its folder. untargeted and auggpt show the instructor no mistake."""
    for store in run.stores_of("instruct"):
        if store.exists("replies.jsonl"):
            for reply in View(store, "replies.jsonl", Reply):
                strategy = reply.case_id.rpartition(">")[2]
                if reply.draw == 0 and reply.turn == 0 and strategy not in ("untargeted", "auggpt"):
                    yield store, reply


def _name(store: Store, run: Run, reply: Reply) -> str:
    folder = store.where.removeprefix(run.store.where).strip("/").removesuffix("/instruct")
    return f"{folder} {reply.case_id}"


def _rows(run: Run, wanted: set[str]) -> Iterator[tuple[str, list[str]]]:
    """By name: question, wrong answer, right answer, explanation."""
    mistakes = {
        name: explained(r.completion.text).mistake for s, r in _first(run) if (name := _name(s, run, r)) in wanted
    }
    for folder in sorted({name.partition(" ")[0] for name in wanted}):
        for case in View(run.store.inside(f"{folder}/diagnose"), "cases.jsonl", Case):
            name, problem = f"{folder} {case.id}", case.attempt.problem
            if name in wanted:
                yield name, [question_of(problem), case.attempt.completion.text, problem.answer, mistakes[name] or ""]


def question_of(problem: Problem) -> str:
    """The question with its choices."""
    choices = problem.extra.get("choices", {})
    pairs = choices.items() if isinstance(choices, dict) else enumerate(choices, start=1)
    return "\n".join([problem.question, *(f"{label}. {text}" for label, text in pairs)])
