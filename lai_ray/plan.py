"""What a job would do, said before it does it. Static: no Ray, no model, no call.  config -> text"""

from __future__ import annotations

import math
from dataclasses import replace

from rich.console import Console

from lai_ray.config import Config
from lai_ray.contracts import Benchmark, Model
from lai_ray.instructor.usage import estimate
from lai_ray.records import Attempt, Case, Completion, Contrast, Grade, Message, Problem
from lai_ray.report.tables import Table
from lai_ray.rundir import flat
from lai_ray.stages.diagnose import improve_settings, strategy_for
from lai_ray.stages.instruct import samples_per_request
from lai_ray.stages.select import Part, benchmark, part, select

ACCURACIES = (0.3, 0.6, 0.9)
"""Accuracies on the training problems for which the calls are worked out."""


def show(config: Config, console: Console) -> None:
    """Print settings, counts, the calls to expect and one prompt of every kind."""
    console.print(f"{config.name}: this job is sound.", style="bold green", markup=False)
    for table in (settings(config), counts(config), calls(config)):
        if table.rows:
            console.print(table.rich())
    for title, text in prompts(config):
        console.print(title, style="bold cyan", markup=False)
        console.print(text + "\n", markup=False)


def settings(config: Config) -> Table:
    """Every setting as it will be used."""
    table = Table("Settings", ["setting", "value"])
    table.rows = [[key, str(value)] for key, value in flat(config.model_dump(mode="json")).items() if value is not None]
    return table


def counts(config: Config) -> Table:
    """Problems by iteration."""
    last = config.iterations
    table = Table("Problems the target is asked", ["part", "each of iterations" if last else "once", "last"])
    numbers = {part.name: sum(1 for _ in part) for part in select(config, 0)}
    at_last = {part.name for part in select(config, last)}
    table.rows = [[name, str(n), str(n) if name in at_last else "–"] for name, n in numbers.items()]
    return table


def calls(config: Config) -> Table:
    """Instructor calls and tokens of one iteration for stated accuracies. Tokens are estimated from characters."""
    columns = [
        "dataset",
        "training accuracy",
        "mistakes",
        "samples a request",
        "calls, first round",
        "tokens at most",
        "minutes at least",
    ]
    table = Table(
        "Instructor calls in one iteration", columns,
        note="Tokens are estimated: one for every four characters sent, plus instructor.max_tokens. "
        "Further rounds ask for what the checks refuse.",
    )  # fmt: skip
    if not config.iterations:
        return table
    wanted = config.curate.samples_per_dataset
    for name in config.evaluate.learn_from:
        n = sum(1 for _ in part(config, name, "train", config.evaluate.max_train_problems))
        for accuracy in ACCURACIES:
            mistakes = max(round(n * (1 - accuracy)), 1)
            each = samples_per_request(wanted, mistakes)
            asked = math.ceil(wanted / each)
            tokens = asked * estimate(example_prompt(config, name, each), config.instructor.max_tokens)
            minutes = max(asked / config.limits.requests_per_minute, tokens / config.limits.tokens_per_minute)
            cells = [mistakes, each, asked, f"{tokens:,}", f"{minutes:.1f}"]
            table.rows.append([name, f"{accuracy:.0%}", *map(str, cells)])
    return table


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


def example_prompt(config: Config, name: str, n: int, iteration: int = 0) -> list[Message]:
    """A strategy's first request, made from the first training problems as if the first had been answered wrongly."""
    found = benchmark(config, name)
    problems = Part(found, "train", None, config.seed)
    some = [problem for problem, _ in zip(problems, range(config.contrast.neighbours + 1), strict=False)]
    contrasts = [Contrast(_attempt(found, problem, right=True), 0.1) for problem in some[1:]]
    strategy = strategy_for(config, iteration, name)
    attempt = _attempt(found, some[0], right=False)
    case = Case(f"{attempt.id}>{strategy.name}", strategy.name, attempt, contrasts if strategy.uses_neighbours else [])
    told = replace(improve_settings(config, iteration, encoder=Model("", "")), samples_per_request=n)
    return strategy.next_messages(case, [], found, told) or []


def _attempt(found: Benchmark, problem: Problem, *, right: bool) -> Attempt:
    text = found.reference(problem) if right else "(the target's wrong answer stands here)"
    grade = Grade(float(right), None, "none", "graded")
    return Attempt(f"{problem.id}#0", problem, found.prompt(problem), Completion(text, "stop"), grade)


def _text(messages: list[Message]) -> str:
    return "\n\n".join(f"<{message['role']}>\n{message['content']}" for message in messages)
