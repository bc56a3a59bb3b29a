"""What an iteration's instructor calls will come to, before they are paid for.  cases -> calls and tokens

Prompts are rendered, so their characters are known. A token is taken for four of them, a sample in a reply to be 1.8
times as long as a training problem with its reference answer (`LONGER`), and every sample to be accepted, until an
earlier iteration of the run has shown how this provider counts and how this instructor answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lai_ray.config.config import Config
from lai_ray.config.settings import of_dataset
from lai_ray.contracts import Benchmark, Model
from lai_ray.instructor.spending.budget import NOTHING, Amount
from lai_ray.instructor.spending.tokens import CHARACTERS_PER_TOKEN, characters, worst_case
from lai_ray.records import Attempt, Case, Completion, Contrast, Grade, Message, Problem, Reply
from lai_ray.stages import grid
from lai_ray.stages.diagnose import improve_settings, strategy_for
from lai_ray.stages.instruct import kept_plans, planned, seeded_order, taken_in_order
from lai_ray.stages.select import benchmark, part
from lai_ray.storage.run import Run, Stage
from lai_ray.storage.store import View

ACCURACIES = (0.3, 0.6, 0.9)
"""Accuracies on the training problems for which the calls are worked out before any mistake is known."""
LOOKED_AT = 200
"""Training problems whose length is taken."""
LONGER = 1.8
"""A model's samples beside the training problems: GPT-4's for GSM8K, 4,000 of which the paper's authors published, have
questions of 335 characters and answers of 584, and GSM8K's own have 235 and 287."""
AROUND_A_SAMPLE = 24
"""Characters of a reply beside question and answer: "1. Question: ", "Answer: ", empty lines."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a provider counts, and how an instructor answers."""

    tokens_per_character: float
    """Of what is sent."""
    tokens_per_sample: float
    """Of a reply."""
    accepted: float = 1.0
    """Accepted samples for each that is asked for."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one dataset in one iteration."""

    mistakes: int
    samples_per_request: int
    fit: int
    """So many of them a reply has room for (instructor.max_tokens)."""
    likely: Amount
    worst: Amount
    """The same calls, each at its worst."""


def usual_habits(config: Config, dataset: str) -> Habits:
    """Before anything was asked: a quarter of a token a character, samples like the training problems, or longer."""
    found = benchmark(config, dataset)
    some = list(itertools.islice(part(config, dataset, "train"), LOOKED_AT))
    length = sum(len(found.show(problem)) + len(found.reference(problem)) for problem in some) / max(len(some), 1)
    longer = LONGER if by_a_model(config) else 1.0
    return Habits(1 / CHARACTERS_PER_TOKEN, (length * longer + AROUND_A_SAMPLE) / CHARACTERS_PER_TOKEN)


def by_a_model(config: Config) -> bool:
    """Whether a language model writes the samples, as far as the job says: a "module:serve" may be anything."""
    url = config.instructor.base_url
    return url is None or "://" in url


def shown_habits(run: Run, dataset: str, before: int, solved_again: bool = False) -> Habits | None:
    """As the last iteration below `before` that asked for this dataset has shown them; None where none has.

    solved_again: later turns of a dialogue solve what the first wrote, and say nothing of how samples are written.
    """
    for i in reversed(range(before)):
        stage, kept = run.stage(i, "instruct"), run.stage(i, "curate").facts().get("kept", {})
        numbers = (stage.store.get_json("plan.json") or {}).get(dataset)
        if stage.facts() and numbers and kept.get(dataset):
            everything = stage.view("replies.jsonl", Reply)
            replies = (r for r in everything if r.case_id.startswith(f"{dataset}/") and not (solved_again and r.turn))
            found = _shown(replies, numbers["samples_per_request"], kept[dataset])
            if found is not None:
                return found
    return None


def _shown(replies: Iterable[Reply], samples_per_request: int, kept: int) -> Habits | None:
    sent = counted = said = asked_for = 0
    for reply in replies:
        done = reply.completion
        if done.prompt_tokens and done.completion_tokens:
            sent, counted = sent + characters(reply.messages), counted + done.prompt_tokens
            said, asked_for = said + done.completion_tokens, asked_for + samples_per_request
    return Habits(counted / sent, said / asked_for, min(kept / asked_for, 1.0)) if sent else None


def samples_wanted(config: Config, dataset: str) -> int:
    """Of one dataset; in a search, the largest that is tried."""
    listed = (config.search.samples_per_dataset if config.search else None) or [config.curate.samples_per_dataset]
    return max(of_dataset(size, dataset) for size in listed)


def calls_wanted(wanted: int, samples_per_request: int, habits: Habits, config: Config) -> int:
    """Calls until so many samples are accepted, further rounds included."""
    return math.ceil(wanted / _fit(samples_per_request, habits, config) / max(habits.accepted, 0.01))


def _fit(samples_per_request: int, habits: Habits, config: Config) -> int:
    """Of so many samples those for which a reply has room; one is always cut off in the middle."""
    return max(1, min(samples_per_request, int(config.instructor.max_tokens / max(habits.tokens_per_sample, 1))))


def forecast_of(
    dataset: str, prompts: list[list[Message]], numbers: dict[str, int], config: Config, habits: Habits
) -> Forecast:
    """What these prompts will come to, and the paid check of their samples. numbers: a dataset's in plan.json."""
    each = numbers["samples_per_request"]
    fit = _fit(each, habits, config)
    sent = sum(map(characters, prompts))
    reply = min(each * habits.tokens_per_sample, config.instructor.max_tokens)
    likely = Amount(len(prompts), round(sent * habits.tokens_per_character), round(len(prompts) * reply))
    worst = sum((worst_case(messages, config.instructor.max_tokens) for messages in prompts), start=NOTHING)
    if config.curate.solve_again:
        problems, calls = _problems(config, dataset), len(prompts) * fit
        usual, longest = problems[len(problems) // 2], problems[-1]
        said = round(min(habits.tokens_per_sample, config.instructor.max_tokens) * calls)
        likely += Amount(calls, round(characters(usual) * habits.tokens_per_character * calls), said)
        worst += worst_case(longest, config.instructor.max_tokens).times(calls)
    return Forecast(numbers["cases"], each, fit, likely, worst)


def _problems(config: Config, dataset: str) -> list[list[Message]]:
    """The first training problems as they are put to whoever is to solve them, the longest last."""
    found = benchmark(config, dataset)
    some = [found.prompt(problem) for problem in itertools.islice(part(config, dataset, "train"), LOOKED_AT)]
    return sorted(some, key=characters)


def known(stage: Stage, iteration: int, config: Config) -> Iterator[tuple[str, Forecast]]:
    """By dataset, for the cases that the finished `diagnose` beside this `instruct` stage holds. Nothing is asked."""
    diagnosed = Stage(stage.run, f"{stage.folder.rpartition('/')[0]}/diagnose")
    counts: dict[str, int] = diagnosed.facts().get("cases", {})
    plans = kept_plans(stage)
    view = diagnosed.view("cases.jsonl", Case)
    for dataset, count in counts.items():
        if count and dataset in config.evaluate.learn_from:
            numbers = planned([kept.get(dataset) for kept in plans], samples_wanted(config, dataset), count)
            habits = shown_habits(stage.run, dataset, iteration, config.curate.solve_again) or usual_habits(
                config, dataset
            )
            calls = calls_wanted(numbers["wanted"], numbers["samples_per_request"], habits, config)
            prompts = _prompts(view, iteration, config, dataset, numbers["samples_per_request"], calls)
            yield dataset, forecast_of(dataset, prompts, numbers, config, habits)


def _prompts(
    cases: View[Case], iteration: int, config: Config, dataset: str, samples_per_request: int, calls: int
) -> list[list[Message]]:
    """The first requests of so many dialogues, in the order in which they are asked."""
    strategy, found = strategy_for(config, iteration, dataset), benchmark(config, dataset)
    settings = improve_settings(config, iteration, encoder=Model("", ""))
    told = replace(settings, samples_per_request=samples_per_request)
    order = seeded_order(cases, dataset, config, iteration)
    return [strategy.next_messages(case, [], found, told) or [] for case, _ in taken_in_order(cases, order, calls)]


def before_evaluation(config: Config, accuracy: float) -> dict[str, Forecast]:
    """One iteration by dataset, if the target gets this part of its training problems right."""
    found = {}
    for name in config.evaluate.learn_from:
        wanted = samples_wanted(config, name)
        n = sum(1 for _ in part(config, name, "train", config.evaluate.max_train_problems))
        blind = getattr(strategy_for(config, 0, name), "any_verdict", False)
        numbers = planned([], wanted, n if blind else max(round(n * (1 - accuracy)), 1))
        habits = usual_habits(config, name)
        asked = calls_wanted(wanted, numbers["samples_per_request"], habits, config) * pools(config)
        prompts = [example_prompt(config, name, numbers["samples_per_request"])] * asked
        found[name] = forecast_of(name, prompts, numbers, config, habits)
    return found


def pools(config: Config) -> int:
    """How often an iteration asks: once, or once for each pool of replies that a search learns from."""
    return len(grid.pools(config, 0)) if config.search is not None else 1


def example_prompt(config: Config, name: str, n: int, iteration: int = 0) -> list[Message]:
    """A strategy's first request, made from the first training problems as if the first had been answered wrongly."""
    found = benchmark(config, name)
    problems = part(config, name, "train")
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
