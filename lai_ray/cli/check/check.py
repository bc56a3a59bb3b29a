"""What a job would do, said before it does it. Static: no Ray, no model, no call.  config -> text"""

from __future__ import annotations

from rich.console import Console

from lai_ray.cli.check import budget, memory
from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import Amount, price_of
from lai_ray.records import Message
from lai_ray.report import tables
from lai_ray.report.tables import Table
from lai_ray.stages.cost_forecast import ACCURACIES, LONGER, before_evaluation, by_a_model, example_prompt
from lai_ray.stages.grid import pools
from lai_ray.stages.select import select
from lai_ray.storage.identity import flat, in_short
from lai_ray.storage.run import Run


def show(config: Config, console: Console, run: Run | None = None) -> None:
    """Print settings, counts, the calls to expect, what they do to the budget, and one prompt of every kind.

    run: the job's own folder, where it was started before.
    """
    # All of it first: what is wrong with the data shows in the counting.
    made = [
        settings(config),
        counts(config),
        trials(config),
        calls(config),
        *budget.of(config, run),
        *memory.of(config),
    ]
    rendered = prompts(config)
    console.print(f"{config.name}: this job is sound.", style="bold green", markup=False)
    tables.show([table for table in made if table.rows], console)
    for title, text in rendered:
        console.print(title, style="bold cyan", markup=False)
        console.print(text + "\n", markup=False)


def settings(config: Config) -> Table:
    """Every setting as it will be used."""
    table = Table("Settings", ["setting", "value"])
    known = {key: value for key, value in flat(config.model_dump(mode="json")).items() if value is not None}
    table.rows = [[key, str(in_short(key, value))] for key, value in known.items()]
    return table


def counts(config: Config) -> Table:
    """Problems by iteration."""
    last = config.iterations
    table = Table("Problems the target is asked", ["part", "each of iterations" if last else "once", "last"])
    numbers = {part.name: sum(1 for _ in part) for part in select(config, 0)}
    at_last = {part.name for part in select(config, last)}
    table.rows = [[name, str(n), str(n) if name in at_last else "–"] for name, n in numbers.items()]
    return table


def trials(config: Config) -> Table:
    """What a search tries in each iteration; no rows where there is none."""
    table = Table("Search in each iteration", ["pool of replies", "trials", "samples of a dataset, at most"])
    if config.search is None:
        return table
    found = pools(config, 0)
    for name, learning in found.items():
        sizes = dict.fromkeys(tables.sizes_text(settings["samples_per_dataset"]) for settings in learning)
        table.rows.append([name, str(len(learning)), ", ".join(sizes)])
    at_most = f", at most {config.search.max_concurrent}" if config.search.max_concurrent else ""
    table.note = (
        f"{sum(map(len, found.values()))} trials: each is a training and an evaluation on the dev splits. Side by side "
        f"go as many as the cluster holds{at_most}. The instructor is asked for {len(found)} pools and by no trial."
    )
    return table


def calls(config: Config) -> Table:
    """Instructor calls, tokens and money of one iteration for stated accuracies, before any mistake is known."""
    price = price_of(config.instructor.model_dump())
    length = f"{LONGER} times as long as" if by_a_model(config) else "as long as"
    columns = ["dataset", "training accuracy", "mistakes", "samples a request", "calls", "tokens", "US$", "minutes"]
    table = Table(
        "Instructor calls in one iteration", columns,
        note="If every sample is accepted; further rounds ask for what the checks refuse. Tokens are estimated: one "
        f"for four characters, a sample {length} a training problem with its answer. Below it, at most: a token for "
        "every byte sent, and every reply as long as instructor.max_tokens allows. " + _pace(config),
    )  # fmt: skip
    for accuracy in ACCURACIES if config.iterations else ():
        for name, found in before_evaluation(config, accuracy).items():
            usd = f"{price.usd(found.likely):,.2f}\n≤ {price.usd(found.worst):,.2f}" if price else "–"
            tokens = f"{found.likely.tokens:,}\n≤ {found.worst.tokens:,}"
            lasting = "–" if config.instructor.in_cluster else f"{minutes(found.likely, config):.1f}"
            each = f"{found.samples_per_request}"
            each += f"\n{found.fit} fit" if found.fit < found.samples_per_request else ""
            cells = [found.mistakes, each, found.likely.calls, tokens, usd, lasting]
            table.rows.append([name, f"{accuracy:.0%}", *map(str, cells)])
    table.rows.sort(key=lambda row: config.evaluate.learn_from.index(row[0]))
    if price is None and table.rows:
        table.note += " For money set instructor.usd_per_million_input and instructor.usd_per_million_output."
    return table


def _pace(config: Config) -> str:
    """Who sets the pace and sends a bill."""
    if not config.instructor.in_cluster:
        return "Minutes are those of the limits per minute."
    who = "The target itself" if config.instructor.model == "target" else config.instructor.model
    return f"{who} is asked in the cluster: no key, no limits per minute, and a price only where the job gives one."


def minutes(amount: Amount, config: Config) -> float:
    """At least so long, by limits.requests_per_minute and limits.tokens_per_minute."""
    return max(amount.calls / config.limits.requests_per_minute, amount.tokens / config.limits.tokens_per_minute)


def prompts(config: Config) -> list[tuple[str, str]]:
    """One rendered prompt of every strategy and dataset, and of every test."""
    shown: dict[str, str] = {}
    for each in select(config, 0):
        problem = next(iter(each))
        shown.setdefault(f"{each.benchmark.name}: what the target is asked", _text(each.benchmark.prompt(problem)))
    for i in range(config.iterations):
        for name in config.evaluate.learn_from:
            title = f"{name}: what the instructor is asked by strategy {config.schedule.name(i, name)}"
            shown.setdefault(title, _text(example_prompt(config, name, 2, iteration=i)))
    return list(shown.items())


def _text(messages: list[Message]) -> str:
    return "\n\n".join(f"<{message['role']}>\n{message['content']}" for message in messages)
