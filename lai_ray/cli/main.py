"""The command `lai`. Heavy things are imported where they are used, so that `lai --help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lai_ray.errors import ConfigError, DataError, InterruptedRunError, LaiError

app = typer.Typer(
    help="Language models that improve by studying their own mistakes, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Job = Annotated[Path, typer.Argument(help="A job file (TOML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as section.key=value.", show_default=False)
]


def _console() -> Console:
    return Console(highlight=False)


Reuse = Annotated[
    list[str] | None,
    typer.Option(help="Another run's folder: its answers and checkpoints are used where they apply. May be repeated."),
]
Until = Annotated[
    str | None, typer.Option(help="Stop after this stage: evaluate, …, or 1/diagnose for one of iteration 1.")
]


def _check_stage(until: str | None) -> None:
    if until is None:
        return
    from lai_ray.storage.run import STAGES

    if until.rpartition("/")[2] not in STAGES:
        raise ConfigError(
            f"--until {until!r} names no stage; there are {', '.join(STAGES)}, and 1/diagnose for one of iteration 1"
        )


@app.command()
def check(
    job: Job,
    overrides: Overrides = None,
    reuse: Reuse = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Join the cluster too: does every node read and write the storage, and has everything a place?",
        ),
    ] = False,
) -> None:
    """Say what a job would do, before it does it: settings, counts, prompts, calls, and what is already paid for."""
    from lai_ray.cli import run as cli_run
    from lai_ray.cli.check import check as cli_check
    from lai_ray.cli.check import reuse as cli_reuse
    from lai_ray.config import job_file

    settings = job_file.read(job, overrides)
    cli_run.check_names(settings, asks=False)
    source = cli_run.reusable(reuse or [], cli_run.place(settings))
    cli_check.show(settings, _console(), cli_run.begun(settings))
    cli_reuse.show(settings, source, _console())
    if note := cli_run.key_note(settings):
        _console().print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)
    if cluster:
        from lai_ray.distributed.cluster import capacity, storage_check
        from lai_ray.report import tables

        there = storage_check.cluster(settings)
        places = capacity.verdicts(capacity.needs(settings), there.resources, there.groups)
        seen = capacity.table(places, there.resources, there.groups)
        tables.show([storage_check.table(there.nodes, settings.storage), seen], _console())
        storage_check.refuse(there.nodes, settings.storage)
        capacity.refuse(places)


@app.command("try")
def try_(job: Job, overrides: Overrides = None) -> None:
    """20 problems through every stage, then one mistake's story."""
    from lai_ray.cli import run as cli_run
    from lai_ray.config import job_file

    outcome = cli_run.run_job(cli_run.tried(job_file.read(job, overrides)))
    if outcome.stopped_at is None:
        _tell(outcome.run, None)


@app.command()
def run(
    job: Job,
    overrides: Overrides = None,
    until: Until = None,
    reuse: Reuse = None,
) -> None:
    """Run a job. The same command goes on where an earlier start stopped; on a finished run it prints the report."""
    from lai_ray.cli import run as cli_run
    from lai_ray.config import job_file

    _check_stage(until)
    outcome = cli_run.run_job(job_file.read(job, overrides), until=until, reuse=reuse or [])
    if outcome.stopped_at is not None:
        _console().print(f"stopped after {outcome.stopped_at}, as asked; without --until the same command goes on")
        return
    _report(outcome.run, _console())


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="A job file or a sweep file (TOML).", show_default=False)],
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray's dashboard, http://HOST:8265; else what RAY_API_SERVER_ADDRESS says, or this machine's."
        ),
    ] = None,
    line: Annotated[
        bool, typer.Option("--print", help="Print the same as one `ray job submit …`, and do nothing.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id, and do not follow its log.")] = False,
    until: Until = None,
    reuse: Reuse = None,
) -> None:
    """Run a job or a sweep on a Ray cluster. The same command comes back to it while it is at work, or resumes it."""
    from lai_ray.cli.sweep import submitted
    from lai_ray.config import job_file
    from lai_ray.distributed.jobs import submission

    _check_stage(until)
    where = submission.address_of(address)
    if job_file.is_sweep(job):
        if until or reuse:
            raise ConfigError(f"{job} is a sweep: --until and --reuse are of single jobs")
        made = submitted.of(job, overrides or [])
    else:
        made = submission.of(job, overrides or [], until=until, reuse=reuse or [])
    if line:
        print(made.line(where))
        return
    from lai_ray.distributed.jobs import submit as job_submit

    ended = job_submit.run(made, where, wait=not no_wait, write=_write, say=_say)
    if isinstance(ended, str):
        print(ended)
    elif ended.code:
        raise typer.Exit(ended.code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (TOML), as in jobs/sweeps.", show_default=False)],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say which runs there are and how they stand; start none.")
    ] = False,
) -> None:
    """Whole runs over any settings. The same command does only what is missing; sweep.csv has a row a run."""
    from lai_ray.cli import run as cli_run
    from lai_ray.cli.sweep import costs, runs, table
    from lai_ray.cli.sweep import file as sweeps
    from lai_ray.report import tables
    from lai_ray.storage.store import Store

    found = sweeps.read(file, overrides)
    for member in found.members:
        try:
            cli_run.check_names(member.config, asks=not plan)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{file}, run {member.name}: {error}") from error
    failed = {} if plan else runs.run(found, _console()).failed
    made = table.rows(found, failed)
    confidence = found.members[0].config.report.confidence
    tables.show([t for t in (table.runs_table(made), table.means(found, made, confidence)) if t.rows], _console())
    if plan:
        try:
            asked = costs.table(found)
            tables.show([asked] if asked.rows else [], _console())
        except (ConfigError, DataError) as error:
            said = f"note: what the instructor will be asked is not known without the data: {error}"
            _console().print(said, style="yellow", markup=False, soft_wrap=True)
    else:
        Store(found.storage).put("sweep.csv", table.as_csv(made))
        _console().print(f"written: {found.storage}/sweep.csv", markup=False, soft_wrap=True)
    if failed:
        raise LaiError(
            f"{len(failed)} of {len(made)} runs failed: {', '.join(failed)}; the same command tries them again"
        )


@app.command()
def evaluate(job: Job, overrides: Overrides = None) -> None:
    """Sit the job's tests, and nothing else; target.model=… names any model."""
    from lai_ray.cli import run as cli_run
    from lai_ray.config import job_file

    outcome = cli_run.run_job(cli_run.only_tests(job_file.read(job, overrides)))
    _report(outcome.run, _console())


@app.command()
def grade(
    benchmark: Annotated[str, typer.Argument(help="A benchmark: gsm8k, mmlu, … or my_pkg.my_file:BENCHMARK.")],
    responses: Annotated[
        Path,
        typer.Option(help="The benchmark's own records plus `response`: JSON lines or array, CSV, Parquet, gzipped."),
    ],
    out: Annotated[Path, typer.Option(help="The same rows with their verdicts, as JSON lines.")],
    rules: Annotated[str, typer.Option(help='"default", or "paper": as the official release grades.')] = "default",
    data: Annotated[
        Path | None, typer.Option(help="The benchmark's own files, for what a row alone does not say.")
    ] = None,
) -> None:
    """Grade recorded responses: the same rows, in the order they came, with correct, answer, rule and status."""
    from lai_ray.cli import grade as grading
    from lai_ray.report import tables

    how = grading.rules_named(rules)
    found = grading.benchmark_named(benchmark, data)
    summary = grading.grade_file(found, responses, out, how)
    tables.show(summary.tables(f"{benchmark}, {rules} rules"), _console())
    _console().print(f"written: {out}", markup=False)


@app.command()
def contamination(
    samples: Annotated[Path, typer.Argument(help="A run's samples.jsonl, or any JSON(L) file with `question`.")],
    against: Annotated[str, typer.Option(help="Benchmarks, separated by commas; their dev and test splits.")],
    out: Annotated[Path, typer.Option(help="The whole report, as JSON.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Where a benchmark's files are, as name=FOLDER; for each that needs it.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="A Ray cluster to spread the comparing over.")] = None,
) -> None:
    """Copies of evaluation questions among samples, and how near the rest come (Table 5 of the paper)."""
    from lai_ray.cli import contamination as examine
    from lai_ray.report import tables

    report = examine.check_file(samples, against.split(","), data=examine.places(data or []), cluster=cluster, out=out)
    tables.show([examine.table(report)], _console())
    _console().print(f"written: {out}", markup=False)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    id: Annotated[
        str | None, typer.Argument(help="A problem's id; any mistake when left out.", show_default=False)
    ] = None,
) -> None:
    """The funnel of a run, and the story of one problem from mistake to sample."""
    from lai_ray.report import tables
    from lai_ray.storage.run import Run

    found = Run.read(run)
    if id is None:
        tables.show([t for t in (tables.funnel(found), tables.times(found)) if t.rows], _console())
    _tell(found, id)


@app.command()
def report(runs: Annotated[list[str], typer.Argument(help="Run folders.")]) -> None:
    """Tables of a run; several runs side by side."""
    from lai_ray.report import tables
    from lai_ray.storage.run import Run

    found = [Run.read(where) for where in runs]
    if len(found) == 1:
        _report(found[0], _console(), write=False)
    else:
        tables.show(tables.side_by_side(found), _console())


@app.command()
def export(
    run: Annotated[str | None, typer.Argument(help="A run's folder.", show_default=False)] = None,
    annotate: Annotated[
        int | None, typer.Option(help="Write a sheet of so many explained mistakes, for a person to judge.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sheet to write (CSV).")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses the mistakes; the run's own seed when left out.")] = None,
    agreement: Annotated[Path | None, typer.Option(help="A judged sheet to read back: the share of yes.")] = None,
) -> None:
    """What the instructor takes mistakes to be (instructor.explain = true): a sheet to judge, and the judgements."""
    from lai_ray.report import annotation_sheet as sheets
    from lai_ray.report import tables
    from lai_ray.storage.run import Run

    if agreement is not None and run is None and annotate is None and out is None:
        tables.show([sheets.agreement(agreement)], _console())
        return
    if agreement is not None or run is None or annotate is None or out is None:
        raise ConfigError(
            "give RUN --annotate N --out SHEET.csv to write a sheet, or --agreement SHEET.csv to read one"
        )
    written = sheets.write_sheet(Run.read(run), annotate, out, seed)
    _console().print(
        f"written: {out}, {written.rows} of {written.explained} explained mistakes "
        f"({written.silent} replies explain nothing). Fill the last column, then: lai export --agreement {out}",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def doctor() -> None:
    """What is installed, what works together, and what to do about the rest."""
    from lai_ray.cli import doctor as examine

    if not examine.show(_console()):
        raise typer.Exit(1)


def _report(run: Any, console: Console, *, write: bool = True) -> None:
    from lai_ray.report import search, tables
    from lai_ray.report.contamination import nearness

    more = [*search.tables(run), *(table for table in [nearness(run)] if table.rows)]
    tables.show([*tables.one_run(run), *more], console)
    if write:
        pictures = [f"![the trials of {name}]({name})\n" for name in search.plot(run)]
        run.store.put("report.md", "\n".join([tables.markdown(run), *(t.markdown() for t in more), *pictures]).encode())
        console.print(f"written: {run.store.where}/report.md", markup=False)


def _tell(run: Any, problem_id: str | None) -> None:
    from lai_ray.report.story import some_case, story

    console = _console()
    for chapter in story(run, problem_id or some_case(run)):
        console.print(chapter.title, style="bold cyan", markup=False)
        console.print(chapter.text + "\n", markup=False)


def main() -> None:
    """Entry point. An error meant for a person has no traceback. Exit 2: the job is wrong; 1: the run; 130: stopped."""
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        raise SystemExit(130) from None
    except LaiError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
