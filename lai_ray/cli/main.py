"""The command `lai`. Heavy modules are imported inside functions, so that `lai --help` is fast."""

from __future__ import annotations

import functools
import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lai_ray import __version__
from lai_ray.common import proxies, screen, search_path
from lai_ray.common.findings import Finding
from lai_ray.errors import ConfigError, DataError, InterruptedRunError, LaiError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(help="A job file (TOML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as section.key=value.", show_default=False)
]
Reuse = Annotated[
    list[str] | None,
    typer.Option(help="Another run's folder: its answers and checkpoints are reused where they apply. Repeatable."),
]
Until = Annotated[
    str | None, typer.Option(help="Stop after this stage: evaluate, …, or 1/diagnose for one of iteration 1.")
]
BenchmarkName = Annotated[
    str, typer.Argument(help="A benchmark: gsm8k, …, my_pkg.my_file:BENCHMARK, or JOB.toml for own data.")
]
Data = Annotated[Path | None, typer.Option(help="The folder with the benchmark's own files.")]
NoProbe = Annotated[bool, typer.Option("--no-probe", help="Do not ask the instructor's server a small request first.")]


def _console() -> Console:
    return Console(highlight=False)


def _print(text: str, style: str | None = None) -> None:
    screen.show(_console(), text, style)


def _show(tables: list[Any]) -> None:
    from lai_ray.report.tables import show

    show(tables, _console())


def _config(job: Path, overrides: list[str] | None) -> Any:
    from lai_ray.config import job_file

    return job_file.read(job, overrides)


def _check_stage(until: str | None) -> None:
    from lai_ray.storage.run import STAGES

    if until is not None and until.rpartition("/")[2] not in STAGES:
        raise ConfigError(
            f"--until {until!r} is not a stage; use one of {', '.join(STAGES)}, or 1/diagnose for one of iteration 1"
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.write(f"lai-ray {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Language models that improve by studying their own mistakes, on Ray."""


@app.command()
def check(
    job: JobFile,
    overrides: Overrides = None,
    reuse: Reuse = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Join the cluster too: can every node read and write the storage, and are there enough resources?",
        ),
    ] = False,
    prompts: Annotated[
        bool,
        typer.Option("--prompts", help="Show one prompt of every kind in full, and the settings at their defaults."),
    ] = False,
    no_probe: NoProbe = False,
) -> None:
    """Show what a job would do, what it would reuse, and, last, whether it would start. Exit 2 where it would not.

    Asks the instructor's server one small request.
    """
    from lai_ray.cli import run as cli_run
    from lai_ray.cli.check import check as cli_check
    from lai_ray.cli.check import dry_run, findings, names
    from lai_ray.cli.check import reuse as cli_reuse

    config = _config(job, overrides)
    names.check_names(config, asks=False)
    sources, own = cli_run.reusable(reuse or [], config.run_folder), cli_run.existing(config)
    another = cli_reuse.refusal(own, config) if own else None
    with dry_run.replayed(config, [*([own] if own else []), *sources]) as replay:
        cli_check.show(config, _console(), replay, None if another else own, whole=prompts)
        cli_reuse.show(replay, config, _console())
    found = [Finding(str(another))] if another else []
    found += findings.here(config, cluster=cluster, probing=not (no_probe or (own and cli_run.finished(own, config))))
    if cluster:
        found += findings.there(config, _show)
    if not cli_check.verdict(config, found, _console()):
        raise typer.Exit(2)


@app.command("try")
def try_(job: JobFile, overrides: Overrides = None) -> None:
    """Run every stage on 20 problems, then show the story of one mistake."""
    from lai_ray.cli import run as cli_run

    outcome = cli_run.run_job(cli_run.small(_config(job, overrides)))
    if outcome.stopped_at is None:
        _print_story(outcome.run, None)


@app.command()
def run(
    job: JobFile, overrides: Overrides = None, until: Until = None, reuse: Reuse = None, no_probe: NoProbe = False
) -> None:
    """Run a job. The same command resumes a stopped run; on a finished run it prints the report."""
    from lai_ray.cli import run as cli_run
    from lai_ray.report import ending

    _check_stage(until)
    outcome = cli_run.run_job(_config(job, overrides), until=until, reuse=reuse or [], probing=not no_probe)
    if outcome.stopped_at is None:
        _report(outcome.run)
        for line in ending.ended(outcome.run, outcome.target.path if outcome.target else None):
            _print(line)
    else:
        _print(f"stopped after {outcome.stopped_at} (--until); the same command without --until resumes")


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="A job file or a sweep file (TOML).", show_default=False)],
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray's dashboard, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, or this machine's."),
    ] = None,
    line: Annotated[
        bool, typer.Option("--print", help="Only print the equivalent `ray job submit …` command.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id without following its log.")] = False,
    until: Until = None,
    reuse: Reuse = None,
) -> None:
    """Run a job or a sweep on a Ray cluster. The same command attaches to it while it is running, or resumes it."""
    from lai_ray.cli.sweep import submitted
    from lai_ray.config import job_file
    from lai_ray.distributed.jobs import submission

    _check_stage(until)
    where = submission.address_of(address)
    if job_file.is_sweep(job):
        if until or reuse:
            raise ConfigError(f"{job} is a sweep: --until and --reuse apply to single jobs only")
        submitted_job = submitted.of(job, overrides or [])
    else:
        submitted_job = submission.of(job, overrides or [], until=until, reuse=reuse or [])
    if line:
        screen.write(submitted_job.line(where))
        return
    from lai_ray.distributed.jobs import submit as job_submit

    result = job_submit.run(
        submitted_job, where, wait=not no_wait, write=functools.partial(screen.write, end=""), say=_print_error
    )
    if isinstance(result, str):
        screen.write(result)
    elif result.code:
        raise typer.Exit(result.code)


def _print_error(text: str) -> None:
    screen.write(text, sys.stderr)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (TOML), as in jobs/sweeps.", show_default=False)],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list the runs, their state and the expected instructor calls.")
    ] = False,
) -> None:
    """Make whole runs over any settings. The same command does only what is missing; sweep.csv has a row per run."""
    from lai_ray.cli.check.names import check_names
    from lai_ray.cli.sweep import costs, runs, table
    from lai_ray.cli.sweep import file as sweeps
    from lai_ray.storage.store import Store

    plan_of_runs = sweeps.read(file, overrides)
    for member in plan_of_runs.members:
        try:
            check_names(member.config, asks=not plan)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{file}, run {member.name}: {error}") from error
    failed = {} if plan else runs.run(plan_of_runs, _console()).failed
    rows = table.rows(plan_of_runs, failed)
    confidence = plan_of_runs.members[0].config.report.confidence
    _show([table.runs_table(rows), table.means(plan_of_runs, rows, confidence)])
    if plan:
        try:
            _show([costs.table(plan_of_runs)])
        except (ConfigError, DataError) as error:
            _print(f"note: the instructor calls cannot be estimated without the data: {error}", "yellow")
    else:
        Store(plan_of_runs.storage).put("sweep.csv", table.as_csv(rows))
        _print(f"written: {plan_of_runs.storage}/sweep.csv")
    if failed:
        raise LaiError(f"{len(failed)} of {len(rows)} runs failed: {', '.join(failed)}; the same command retries them")


@app.command()
def evaluate(job: JobFile, overrides: Overrides = None) -> None:
    """Run only the tests; target.model=… names any model. A job with a target and evaluate.report_on is enough."""
    from lai_ray.cli import run as cli_run

    outcome = cli_run.run_job(cli_run.only_tests(_config(job, [*(overrides or []), "iterations=0"])))
    _report(outcome.run)


@app.command()
def grade(
    benchmark: BenchmarkName,
    responses: Annotated[
        Path,
        typer.Option(help="The benchmark's own records plus `response`: JSON lines or array, CSV, Parquet, gzipped."),
    ],
    out: Annotated[Path, typer.Option(help="The same rows with their verdicts, as JSON lines.")],
    rules: Annotated[str, typer.Option(help='"default", or "paper": as the official release grades.')] = "default",
    data: Data = None,
) -> None:
    """Grade recorded responses: the same rows in the same order, with correct, answer, rule and status."""
    from lai_ray.cli import grade as grading

    loaded, how = grading.benchmark_named(benchmark, data), grading.rules_named(rules)
    summary = grading.grade_file(loaded, responses, out, how)
    _show(summary.tables(f"{benchmark}, {rules} rules"))
    _print(f"written: {out}")


@app.command()
def contracts(benchmark: BenchmarkName, data: Data = None) -> None:
    """Try on a benchmark what every benchmark promises. Exit code 1 where something does not hold."""
    from lai_ray.cli import contracts as promises
    from lai_ray.cli import grade as grading

    table, held = promises.examine(grading.benchmark_named(benchmark, data))
    _show([table])
    if not held:
        raise typer.Exit(1)


@app.command()
def contamination(
    samples: Annotated[Path, typer.Argument(help="A run's samples.jsonl, or any JSON(L) file with `question`.")],
    against: Annotated[str, typer.Option(help="Benchmarks, separated by commas; their dev and test splits.")],
    out: Annotated[Path, typer.Option(help="The whole report, as JSON.")],
    data: Annotated[list[str] | None, typer.Option(help="A benchmark's files, as name=FOLDER. Repeatable.")] = None,
    cluster: Annotated[str | None, typer.Option(help="A Ray cluster to compare on.")] = None,
) -> None:
    """Find copies of evaluation questions among samples, and the ROUGE-L of the rest (Table 5 of the paper)."""
    from lai_ray.cli import contamination as cli_contamination

    folders = cli_contamination.folders(data or [])
    report = cli_contamination.check_file(samples, against.split(","), data=folders, cluster=cluster, out=out)
    _show([cli_contamination.table(report)])
    _print(f"written: {out}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    id: Annotated[
        str | None, typer.Argument(help="A problem's id. Default: the first mistake.", show_default=False)
    ] = None,
) -> None:
    """Show the funnel of a run, and the story of one problem from mistake to sample."""
    from lai_ray.report import facts, sections
    from lai_ray.storage.run import Run

    opened = Run.read(run)
    if id is None:
        for section in (sections.state, sections.funnel, sections.times):
            _show(section(opened, facts.confidence(opened)))
    _print_story(opened, id)


@app.command()
def report(runs: Annotated[list[str], typer.Argument(help="Run folders, or folders with runs, as a sweep's.")]) -> None:
    """Show the tables of a run, or several runs side by side: those named, and all in a folder such as a sweep's."""
    from lai_ray.report import comparison, sections
    from lai_ray.storage.run import Run

    found = {where: Run.all_in(where) for where in runs}
    opened = [run for members in found.values() for run in members]
    if not opened:
        Run.read(runs[0])  # Raises.
    if skipped := [where for where, members in found.items() if not members]:
        _print(f"note: no run in {', '.join(skipped)}", "yellow")
    _show([comparison.side_by_side(opened)] if len(opened) > 1 else sections.tables_of(opened[0]))


@app.command()
def export(
    run: Annotated[str | None, typer.Argument(help="A run's folder.", show_default=False)] = None,
    annotate: Annotated[
        int | None, typer.Option(help="Write a sheet with this many explained mistakes, for human judgement.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sheet to write (CSV).")] = None,
    seed: Annotated[int | None, typer.Option(help="Selects the mistakes. Default: the run's seed.")] = None,
    agreement: Annotated[Path | None, typer.Option(help="A judged sheet: print the share of yes.")] = None,
) -> None:
    """Write the instructor's explanations of mistakes (instructor.explain = true) to a sheet, or count a judged one."""
    from lai_ray.report import annotation_sheet as sheets
    from lai_ray.storage.run import Run

    if agreement is not None and run is None and annotate is None and out is None:
        _show([sheets.agreement(agreement)])
        return
    if agreement is not None or run is None or annotate is None or out is None:
        raise ConfigError("give RUN --annotate N --out SHEET.csv to write one, or --agreement SHEET.csv to read one")
    written = sheets.write_sheet(Run.read(run), annotate, out, seed)
    _print(
        f"written: {out}, {written.rows} of {written.explained} explained mistakes ({written.unexplained} replies have "
        f"no explanation). Fill the last column, then: lai export --agreement {out}"
    )


@app.command()
def doctor() -> None:
    """Check what is installed and whether it works together, with advice."""
    from lai_ray.cli import doctor as cli_doctor

    if not cli_doctor.show(_console()):
        raise typer.Exit(1)


def _report(run: Any) -> None:
    from lai_ray.report import sections

    tables = sections.tables_of(run)
    _show(tables)
    _print(f"written: {sections.write(run, tables)}")


def _print_story(run: Any, problem_id: str | None) -> None:
    from lai_ray.report.story import some_case, story

    for chapter in story(run, problem_id or some_case(run)):
        screen.show(_console(), chapter.title, "bold cyan", wrap=True)
        screen.show(_console(), chapter.text + "\n", wrap=True)


def main() -> None:
    """Entry point. A LaiError is printed without a traceback. Exit 2: wrong job; 1: failed run; 130: interrupted."""
    search_path.user_folder_last()
    proxies.spare_local()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # Where the terminal's encoding has no "–", as ASCII.
    try:
        app()
    except ConfigError as error:
        _print_error(f"error: {error}")
        raise SystemExit(2) from None
    except InterruptedRunError as error:
        _print_error(str(error))
        raise SystemExit(130) from None
    except LaiError as error:
        _print_error(f"error: {error}")
        raise SystemExit(1) from None
