"""`lai check`: what a job would do. Without Ray, models or calls.  Config -> tables and prompts"""

from __future__ import annotations

from rich.console import Console

from lai_ray.cli.check import budget, memory
from lai_ray.cli.check.dry_run import Replay
from lai_ray.common import plugins, screen
from lai_ray.common.findings import Finding
from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import Amount
from lai_ray.records import Message
from lai_ray.report import tables
from lai_ray.report.tables import Table
from lai_ray.stages import cost_forecast
from lai_ray.stages.cost_forecast import ACCURACIES, LONGER, before_evaluation, by_a_model, example_prompt
from lai_ray.stages.grid import pools
from lai_ray.stages.job import Job
from lai_ray.stages.select import select
from lai_ray.storage.identity import flat, in_short
from lai_ray.storage.run import Run


def show(
    config: Config, console: Console, replay: Replay | None = None, run: Run | None = None, *, whole: bool = False
) -> None:
    """Print settings, numbers of problems, estimated calls, their part of the budget, and one prompt of every kind.

    replay: what is recorded of the job.  run: its own run, where this job may go on with it.  whole: settings at their
    defaults too, and prompts in full.
    """
    job = Job.of(config)
    # Before anything is printed: counting and rendering find errors in the data.
    shown = [settings(config, whole=whole), counts(job), trials(job), calls(job), rehearsal(job)]
    shown += [*budget.tables_of(job, replay, run), *memory.of(config)]
    rendered = prompts(job)
    if not whole:
        lengths = [[title, f"{len(text):,}"] for title, text in rendered]
        shown.append(Table("Prompts, in full with --prompts", ["prompt", "characters"], lengths))
    tables.show(shown, console)
    for title, text in rendered if whole else ():
        screen.show(console, title, "bold cyan", wrap=True)
        screen.show(console, text + "\n", wrap=True)


def verdict(config: Config, findings: list[Finding], console: Console) -> bool:
    """Print what was found, and last of all whether a run would start; returns that."""
    for found in findings:
        kind, style = ("refused", "red") if found.refuses else ("note", "yellow")
        screen.show(console, f"{kind}: {found.text}", style, wrap=True)
    count = sum(found.refuses for found in findings)
    if count:
        reasons = "1 reason" if count == 1 else f"{count} reasons"
        screen.show(console, f"{config.name}: a run would be refused or fail, for {reasons} above", "bold red")
    else:
        screen.show(console, f"{config.name}: ready to run", "bold green")
    return not count


def settings(config: Config, *, whole: bool) -> Table:
    """The settings that differ from their defaults, or every one."""
    table = Table("Settings" if whole else "Settings that are not at their default", ["setting", "value"])
    dumped = config.model_dump(mode="json", exclude_defaults=not whole)
    known = {key: value for key, value in flat(dumped).items() if value is not None}
    table.rows = [[key, str(in_short(key, value))] for key, value in known.items()]
    return table


def counts(job: Job) -> Table:
    """Problems by iteration."""
    last = job.config.iterations
    table = Table("Problems for the target", ["part", "each of iterations" if last else "once", "last"])
    numbers = {part.name: sum(1 for _ in part) for part in select(job, 0)}
    at_last = {part.name for part in select(job, last)}
    table.rows = [[name, str(n), str(n) if name in at_last else "–"] for name, n in numbers.items()]
    if last and job.config.train.early_stopping:
        each = f"each of train.epochs = {job.config.train.epochs}"
        table.note = f"train.early_stopping: the model of {each} answers the dev problems too."
    return table


def trials(job: Job) -> Table:
    """The trials of a search in each iteration; no rows without a search."""
    table = Table("Search in each iteration", ["pool of replies", "trials", "max samples per dataset"])
    search = job.config.search
    if search is None:
        return table
    by_pool = pools(job, 0)
    for name, learning in by_pool.items():
        sizes = dict.fromkeys(tables.sizes_text(settings["samples_per_dataset"]) for settings in learning)
        table.rows.append([name, str(len(learning)), ", ".join(sizes)])
    at_most = f", at most {search.max_concurrent}" if search.max_concurrent else ""
    table.note = (
        f"{sum(map(len, by_pool.values()))} trials, each with a training and an evaluation on the dev splits. "
        f"As many run concurrently as the cluster holds{at_most}. Only the {len(by_pool)} pools call the instructor."
    )
    return table


def calls(job: Job) -> Table:
    """Instructor calls, tokens and money of one iteration for several accuracies, before any mistake is known."""
    config, price = job.config, job.price
    length = f"{LONGER} times as long as" if by_a_model(config) else "as long as"
    columns = ["dataset", "training accuracy", "mistakes", "samples per call", "calls", "tokens", "US$", "minutes"]
    table = Table(
        "Instructor calls in one iteration", columns,
        note="If every sample is accepted; rejected ones are requested again. Tokens are estimated: one per four "
        f"characters, a sample {length} a training problem with its answer. The upper bound is below: a token per byte "
        "sent, and replies of instructor.max_tokens. " + _pace(config),
    )  # fmt: skip
    for accuracy in ACCURACIES if job.asks_instructor else ():
        for name, forecast in before_evaluation(job, accuracy).items():
            usd = f"{price.usd(forecast.likely):,.2f}\n≤{price.usd(forecast.worst):,.2f}" if price else "–"
            tokens = f"{forecast.likely.tokens:,}\n≤{forecast.worst.tokens:,}"
            duration = "–" if config.instructor.in_cluster else f"{minutes(forecast.likely, config):.1f}"
            each = f"{forecast.samples_per_request}"
            if forecast.fit < forecast.samples_per_request:
                each += f"\n{forecast.fit} fit a reply"
            cells = [forecast.mistakes, each, forecast.likely.calls, tokens, usd, duration]
            table.rows.append([name, f"{accuracy:.0%}", *map(str, cells)])
    table.rows.sort(key=lambda row: config.evaluate.learn_from.index(row[0]))
    if any("fit a reply" in row[3] for row in table.rows):
        table.note += (
            " Fit a reply: as many samples as one of instructor.max_tokens probably holds, where more are asked for; "
            "the calls are counted with these. Raise instructor.max_tokens, or lower curate.samples_per_dataset."
        )
    if price is None and table.rows:
        table.note += " US$ needs a price: instructor.usd_per_million_input and instructor.usd_per_million_output."
    return table


def rehearsal(job: Job) -> Table:
    """What a rehearsal asks in each iteration; no rows without one."""
    curate = job.config.curate
    columns = ["dataset", "new problems", "answers of the target", "instructor calls"]
    table = Table(
        "Rehearsal in each iteration, at most", columns,
        note="The target's answers are no instructor calls and cost nothing but its time.",
    )  # fmt: skip
    if curate.check_keys:
        least, most = cost_forecast.IN_DOUBT
        table.note += (
            " Calls for keys in doubt (curate.check_keys) are in the budget's forecast for "
            f"{least:.0%} to {most:.0%} of the new problems, and in every limit."
        )
    for name in job.config.evaluate.learn_from if curate.rehearse and job.config.iterations else ():
        problems = cost_forecast.samples_wanted(job.config, name) * cost_forecast.pools(job)
        numbers = problems, problems * (curate.rehearse + curate.hint), problems * curate.check_keys
        table.rows.append([name, *(f"{number:,}" for number in numbers)])
    return table


def _pace(config: Config) -> str:
    if not config.instructor.in_cluster:
        return "Minutes are the least that the limits per minute allow."
    who = "The target itself" if config.instructor.model == "target" else config.instructor.model
    return f"{who} runs in the cluster: no key, no limits per minute, and no price except one set in the job."


def minutes(amount: Amount, config: Config) -> float:
    """The least by limits.requests_per_minute and limits.tokens_per_minute."""
    return max(amount.calls / config.limits.requests_per_minute, amount.tokens / config.limits.tokens_per_minute)


def prompts(job: Job) -> list[tuple[str, str]]:
    """One rendered prompt of every strategy and dataset, and of every test."""
    shown: dict[str, str] = {}
    config = job.config
    for each in select(job, 0):
        problem = next(iter(each))
        messages = plugins.messages(each.benchmark.prompt(problem), f"prompt of benchmark {each.benchmark.name}")
        shown.setdefault(f"{each.benchmark.name}: prompt for the target", _text(messages))
    for i in range(config.iterations):
        for name in config.evaluate.learn_from:
            title = f"{name}: prompt for the instructor by strategy {config.schedule.name(i, name)}"
            if messages := example_prompt(job, name, 2, iteration=i):
                shown.setdefault(title, _text(messages))
    return list(shown.items())


def _text(messages: list[Message]) -> str:
    return "\n\n".join(f"<{message['role']}>\n{message['content']}" for message in messages)
