"""Forecasts the instructor calls of an iteration.  cases -> calls and tokens

Prompts are rendered, so their characters are known. Until an earlier iteration of the run has shown this provider's
counts and this instructor's replies, a token is taken for four characters, a sample to be 1.8 times as long as a
training problem with its reference answer (`LONGER`), and every sample to be accepted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.config.values import of_dataset
from lai_ray.contracts import Benchmark
from lai_ray.instructor.spending.budget import NOTHING, Amount
from lai_ray.instructor.spending.tokens import CHARACTERS_PER_TOKEN, characters, worst_case
from lai_ray.records import Attempt, Case, Completion, Contrast, Grade, Message, Problem, Reply
from lai_ray.stages import grid
from lai_ray.stages.curate import OVER_THE_CAP
from lai_ray.stages.instruct import kept_plans, planned, seeded_order, taken_in_order
from lai_ray.stages.job import Job
from lai_ray.stages.select import part
from lai_ray.storage.run import Run, Stage

ACCURACIES = (0.2, 0.5, 0.8)
"""Accuracies on the training problems for which calls are forecast before any mistake is known: the calls for the first
and the last are at most 4 to 1."""
LATER = (0.3, 1.2)
"""Mistakes of a later iteration, as shares of the last that are known."""
IN_DOUBT = (0.2, 0.8)
"""Shares of the new problems of which curate.check_keys asks for a second solution."""
TURNS = 5
"""Turns of a dialogue with the target among which the first request to the instructor is looked for."""
PROBLEMS = 200
"""Training problems whose length is measured."""
LONGER = 1.8
"""Length of a model's samples relative to training problems: of the 4,000 for GSM8K by GPT-4 that the paper's authors
published, questions have 335 characters and answers 584; GSM8K's own have 235 and 287."""
AROUND_A_SAMPLE = 24
"""Characters of a sample besides question and answer: "1. Question: ", "Answer: ", empty lines."""


@dataclass(frozen=True, slots=True)
class TokenRates:
    """A provider's tokens per character, and the length of an instructor's samples."""

    tokens_per_character: float
    """Of prompts."""
    tokens_per_sample: float
    """Of replies."""
    accepted: float = 1.0
    """Accepted samples per sample asked for."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The calls for one dataset in one iteration."""

    mistakes: int
    samples_per_request: int
    fit: int
    """How many of them fit into a reply (instructor.max_tokens)."""
    dialogues: int
    """How many dialogues with the instructor begin."""
    likely: Amount
    worst: Amount
    """The same calls, each at its worst."""

    def beside(self, other: Forecast) -> Forecast:
        """Of two pools together."""
        likely, worst = self.likely + other.likely, self.worst + other.worst
        return replace(self, dialogues=self.dialogues + other.dialogues, likely=likely, worst=worst)


def usual_rates(job: Job, dataset: str) -> TokenRates:
    """The rates before any call: four characters per token, samples as long as the training problems, or longer."""
    benchmark = job.benchmark(dataset)
    problems = list(itertools.islice(part(job, dataset, "train"), PROBLEMS))
    length = sum(len(benchmark.show(p)) + len(benchmark.reference(p)) for p in problems) / max(len(problems), 1)
    longer = LONGER if by_a_model(job.config) else 1.0
    return TokenRates(1 / CHARACTERS_PER_TOKEN, (length * longer + AROUND_A_SAMPLE) / CHARACTERS_PER_TOKEN)


def by_a_model(config: Config) -> bool:
    """Whether a language model writes the samples, as far as the job shows; a "module:serve" may be anything."""
    url = config.instructor.base_url
    return url is None or "://" in url


def observed_rates(run: Run, dataset: str, before: int, solved_again: bool = False) -> TokenRates | None:
    """The rates of the last iteration below `before` that asked for this dataset; None where none did.

    solved_again: only first turns count, as later ones solve samples instead of writing them.
    """
    for i in reversed(range(before)):
        stage, counts = run.stage(i, "instruct"), run.stage(i, "curate").store.get_json("funnel.json") or {}
        numbers, funnel = (stage.store.get_json("plan.json") or {}).get(dataset), counts.get(dataset, {})
        if stage.facts() and numbers and funnel.get("kept"):
            everything = (reply for reply in stage.view("replies.jsonl", Reply) if reply.to != "target")
            replies = (r for r in everything if r.case_id.startswith(f"{dataset}/") and not (solved_again and r.turn))
            accepted = funnel["kept"] + funnel.get(OVER_THE_CAP, 0)
            rates = _observed(replies, numbers["samples_per_request"], accepted)
            if rates is not None:
                return rates
    return None


def _observed(replies: Iterable[Reply], samples_per_request: int, accepted: int) -> TokenRates | None:
    sent = counted = answered = asked_for = 0
    for reply in replies:
        done = reply.completion
        if done.prompt_tokens and done.completion_tokens:
            sent, counted = sent + characters(reply.messages), counted + done.prompt_tokens
            answered, asked_for = answered + done.completion_tokens, asked_for + samples_per_request
    return TokenRates(counted / sent, answered / asked_for, min(accepted / asked_for, 1.0)) if sent else None


def samples_wanted(config: Config, dataset: str) -> int:
    """Samples wanted of one dataset; in a search, the largest size."""
    listed = (config.search.samples_per_dataset if config.search else None) or [config.curate.samples_per_dataset]
    return max(of_dataset(size, dataset) for size in listed)


def calls_wanted(wanted: int, samples_per_request: int, rates: TokenRates, config: Config) -> int:
    """Calls until `wanted` samples are accepted, including further rounds."""
    return math.ceil(wanted / _fit(samples_per_request, rates, config) / max(rates.accepted, 0.01))


def _fit(samples_per_request: int, rates: TokenRates, config: Config) -> int:
    """How many of the samples fit into a reply, at least 1."""
    return max(1, min(samples_per_request, int(config.instructor.max_tokens / max(rates.tokens_per_sample, 1))))


def forecast_of(
    dataset: str, prompts: list[list[Message]], numbers: dict[str, int], job: Job, rates: TokenRates
) -> Forecast:
    """The forecast for these prompts, including the paid check of samples. numbers: the dataset's in plan.json.

    An empty prompt is that of a dialogue without a request.
    """
    config, each = job.config, numbers["samples_per_request"]
    prompts, fit = [messages for messages in prompts if messages], _fit(each, rates, config)
    sent = sum(map(characters, prompts))
    reply = min(each * rates.tokens_per_sample, config.instructor.max_tokens)
    likely = Amount(len(prompts), round(sent * rates.tokens_per_character), round(len(prompts) * reply))
    structure, most = job.structure(dataset), config.instructor.max_tokens
    form = structure.response_format if structure and not config.instructor.in_cluster else None
    worst = sum((worst_case(messages, most, form) for messages in prompts), start=NOTHING)
    if config.curate.solve_again:
        problems = itertools.islice(part(job, dataset, "train"), PROBLEMS)
        checks, calls = sorted(map(job.benchmark(dataset).prompt, problems), key=characters), len(prompts) * fit
        sent = characters(checks[len(checks) // 2]) * calls
        solution = round(min(rates.tokens_per_sample, config.instructor.max_tokens) * calls)
        likely += Amount(calls, round(sent * rates.tokens_per_character), solution)
        worst += worst_case(checks[-1], config.instructor.max_tokens).times(calls)
    return Forecast(numbers["cases"], each, fit, len(prompts), likely, worst)


def known(stage: Stage, iteration: int, job: Job) -> Iterator[tuple[str, Forecast]]:
    """The forecast by dataset for the cases of the finished `diagnose` beside this `instruct` stage."""
    diagnosed = Stage(stage.run, f"{stage.folder.rpartition('/')[0]}/diagnose")
    counts: dict[str, int] = diagnosed.facts().get("cases", {})
    if "/search/" in stage.folder:
        job = grid.pool_job(job, grid.pools(job, iteration)[stage.folder.split("/")[2]])
    plans, config = kept_plans(stage), job.config
    view = diagnosed.view("cases.jsonl", Case)
    for dataset, count in counts.items():
        if count and dataset in config.evaluate.learn_from:
            numbers = planned([kept.get(dataset) for kept in plans], config.curate.most(dataset), count)
            observed = observed_rates(stage.run, dataset, iteration, config.curate.solve_again)
            rates = observed or usual_rates(job, dataset)
            calls = calls_wanted(numbers["wanted"], numbers["samples_per_request"], rates, config)
            pairs = taken_in_order(view, seeded_order(view, dataset, config, iteration), calls)
            each = numbers["samples_per_request"]
            prompts = [_first_prompt(case, job, iteration, dataset, each) for case, _ in pairs]
            yield dataset, forecast_of(dataset, prompts, numbers, job, rates)


def _first_prompt(case: Case, job: Job, iteration: int, dataset: str, samples_per_request: int) -> list[Message]:
    """The first request of a dialogue to the instructor, if the target answers as before; empty without any."""
    settings = job.settings_for(iteration, dataset, samples_per_request=samples_per_request)
    strategy = job.strategy(iteration, dataset)
    benchmark = job.asked(dataset)
    ask, replies = strategy.next(case, [], benchmark, settings), list[Reply]()
    while ask and ask.to == "target" and len(replies) < TURNS:
        turn, completion = len(replies), case.attempt.completion
        replies.append(Reply(f"{case.id}@{turn}.0", case.id, turn, 0, ask.messages, completion, ask.to))
        ask = strategy.next(case, replies, benchmark, settings)
    return plugins.messages(ask.messages, f"a request of strategy {strategy.name}") if ask else []


def training_sizes(job: Job) -> dict[str, int]:
    """The number of training problems of each dataset."""
    limit = job.config.evaluate.max_train_problems
    return {name: sum(1 for _ in part(job, name, "train", limit)) for name in job.config.evaluate.learn_from}


def mistakes_at(sizes: Mapping[str, int], accuracy: float) -> dict[str, int]:
    """The mistakes by dataset of a target that is right on this share of its training problems, at least 1."""
    # Rounded inwards, so that a range of accuracies stays within its ratio.
    whole = math.ceil if accuracy > ACCURACIES[1] else math.floor
    return {name: max(whole(round(n * (1 - accuracy), 6)), 1) for name, n in sizes.items()}


def before_evaluation(job: Job, accuracy: float, iteration: int = 0) -> dict[str, Forecast]:
    """The forecast of one iteration by dataset, if the target is right on this share of its training problems."""
    sizes = training_sizes(job)
    return for_mistakes(job, iteration, mistakes_at(sizes, accuracy), sizes)


def for_mistakes(
    job: Job, iteration: int, mistakes: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, Forecast]:
    """The forecast of one iteration for the datasets of `mistakes`, all pools of a search together."""
    forecasts: dict[str, Forecast] = {}
    for asking in _asking(job, iteration):
        for name in mistakes:
            cases = sizes[name] if asking.strategy(iteration, name).any_verdict else mistakes[name]
            numbers, rates = planned([], asking.config.curate.most(name), cases), usual_rates(asking, name)
            prompt = example_prompt(asking, name, numbers["samples_per_request"], iteration)
            calls = calls_wanted(numbers["wanted"], numbers["samples_per_request"], rates, asking.config)
            forecast = forecast_of(name, [prompt] * calls, numbers, asking, rates)
            forecasts[name] = forecasts[name].beside(forecast) if name in forecasts else forecast
    return forecasts


def _asking(job: Job, iteration: int) -> Iterator[Job]:
    """The job; of a search, one for each pool, at its largest size."""
    if job.config.search is None:
        yield job
        return
    for trials in grid.pools(job, iteration).values():
        yield grid.pool_job(job, trials)


def keys_in_doubt(job: Job, share: float) -> Amount:
    """The calls of one iteration for second solutions of so many of the new problems (curate.check_keys)."""
    config, amount = job.config, NOTHING
    for name in config.evaluate.learn_from if config.curate.check_keys else ():
        rates, problems = usual_rates(job, name), itertools.islice(part(job, name, "train"), PROBLEMS)
        prompt = min((characters(job.benchmark(name).prompt(problem)) for problem in problems), default=0)
        each = Amount(1, round(prompt * rates.tokens_per_character), round(rates.tokens_per_sample))
        amount += each.times(round(share * samples_wanted(config, name) * pools(job)))
    return amount


def pools(job: Job) -> int:
    """How often an iteration asks: once, or once for each pool of a search."""
    return len(grid.pools(job, 0)) if job.config.search is not None else 1


def example_prompt(job: Job, name: str, n: int, iteration: int = 0) -> list[Message]:
    """A strategy's first request, from the first training problems as if the first was answered wrongly."""
    benchmark, strategy = job.benchmark(name), job.strategy(iteration, name)
    first, *others = itertools.islice(part(job, name, "train"), job.config.contrast.neighbours + 1)
    contrasts = [Contrast(_attempt(benchmark, problem, right=True), 0.1) for problem in others]
    attempt = _attempt(benchmark, first, right=False)
    case = Case(f"{attempt.id}>{strategy.name}", strategy.name, attempt, contrasts if strategy.uses_neighbours else [])
    return _first_prompt(case, job, iteration, name, n)


def _attempt(benchmark: Benchmark, problem: Problem, *, right: bool) -> Attempt:
    text = benchmark.reference(problem) if right else "(here comes the target's wrong answer)"
    grade = Grade(float(right), None, "none", "graded")
    return Attempt(f"{problem.id}#0", problem, benchmark.prompt(problem), Completion(text, "stop"), grade)
