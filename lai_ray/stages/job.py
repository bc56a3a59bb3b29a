"""A job with every name in its settings resolved to an object.  config -> Job

Making one loads plug-ins but no model; `located` adds the models that have to be looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Grading, Model, Strategy, StrategySettings
from lai_ray.errors import ConfigError
from lai_ray.instructor.spending.budget import Price, price_of
from lai_ray.instructor.structure import InStructure, Structure
from lai_ray.stages.curation.solve_again import SolvedAgain
from lai_ray.storage import models


@dataclass(frozen=True)
class Job:
    """The objects that a job names. Picklable: a search's trials run in other processes."""

    config: Config
    benchmarks: Mapping[str, Benchmark]
    """Those that are evaluated, and those that curate.keep_clear_of names."""
    strategies: Mapping[str, Strategy]
    strategy_settings: Mapping[str, Any]
    """Each strategy's own settings by its name; None where it has none."""
    grading: Grading
    price: Price | None
    """US$ per million tokens of the instructor; None unless the job has both halves."""
    target: Model | None = None
    """The model that the job starts from; None while it is not yet located."""
    encoder: Model | None = None
    """The model that embeds; None where it is each iteration's target, or not yet located."""
    instructor: Model | None = None
    """The open model that is asked; None where it is each iteration's target, or a server is asked."""

    @classmethod
    def of(cls, config: Config) -> Job:
        """Raises ConfigError for an unknown name, with the known ones."""
        strategies = {name: plugins.load("strategies", name) for name in config.strategies}
        _refuse_checks_of_new_problems(config, strategies)
        return cls(
            config=config,
            benchmarks={name: benchmark_of(config, name) for name in _benchmark_names(config)},
            strategies=strategies,
            strategy_settings=_own_settings(config, strategies),
            grading=Grading(rules=config.evaluate.rules, min_tier=config.sandbox.min_tier),
            price=price_of(config.instructor.model_dump()),
        )

    def changed(self, config: Config) -> Job:
        """This job with other settings and the same models, for a trial of a search."""
        return replace(Job.of(config), target=self.target, encoder=self.encoder, instructor=self.instructor)

    @property
    def uses_neighbours(self) -> bool:
        """Whether any strategy of the job needs an encoder."""
        return bool(self.config.iterations) and any(strategy.uses_neighbours for strategy in self.strategies.values())

    @property
    def names_encoder(self) -> bool:
        """Whether the encoder is another model than the target."""
        return self.config.contrast.encoder != "target" and self.uses_neighbours

    @property
    def names_instructor(self) -> bool:
        """Whether an open model other than the target is the instructor."""
        asked = self.config.instructor
        return bool(self.config.iterations) and asked.in_cluster and asked.model != "target"

    def located(self, known: dict[str, Any]) -> Job:
        """With its encoder and its open instructor. known: hashes of files, which this adds to.

        Raises ConfigError for a model that does not exist.
        """
        wanted = {"encoder": ("contrast.encoder", self.config.contrast.encoder)} if self.names_encoder else {}
        if self.names_instructor:
            wanted["instructor"] = ("instructor.model", self.config.instructor.model)
        located = {role: models.resolve(name, setting=of, known=known) for role, (of, name) in wanted.items()}
        return replace(self, encoder=located.get("encoder"), instructor=located.get("instructor"))

    @property
    def asks_instructor(self) -> bool:
        """Whether an iteration may ask the instructor or the judge."""
        curate = self.config.curate
        asks = any(strategy.asks for strategy in self.strategies.values())
        return bool(self.config.iterations) and (asks or curate.solve_again or curate.check_keys)

    def contents(self, dataset: str) -> dict[str, str]:
        """Hashes of the files that strategies take a dataset's samples from, by name in the schedule.

        Raises ConfigError, DataError for files that cannot be used.
        """
        names = {name: self.strategies[name] for name in self.config.strategies_of(dataset)}
        found = {n: one.content(self.benchmark(dataset), self.strategy_settings[n]) for n, one in names.items()}
        return {name: content for name, content in found.items() if content is not None}

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark of that name. Raises ConfigError for an unknown one, with the known ones."""
        return self.benchmarks[name] if name in self.benchmarks else benchmark_of(self.config, name)

    def asked(self, name: str) -> Benchmark:
        """The benchmark as strategies see it: its brief has the form that `instructor.format` asks for."""
        benchmark = self.benchmark(name)
        structure = self.structure(name)
        return benchmark if structure is None else cast(Benchmark, InStructure(benchmark, structure))

    def structure(self, name: str) -> Structure | None:
        """How a benchmark's samples are asked for in JSON; None for text."""
        return None if self.config.instructor.format == "text" else self.benchmark(name).structure()

    def strategy(self, iteration: int, dataset: str) -> Strategy:
        """The strategy in the schedule."""
        return self.strategies[self.config.schedule.name(iteration, dataset)]

    def dialogue(self, iteration: int, dataset: str) -> Strategy:
        """The same, with the paid check around it where curate.solve_again is set."""
        strategy = self.strategy(iteration, dataset)
        return cast(Strategy, SolvedAgain(strategy, self.grading)) if self.config.curate.solve_again else strategy

    def base(self, target: Model) -> Model:
        """The model that an iteration trains: its target, or the one that the job started from."""
        return self.target if self.config.train.start_from == "base" and self.target else target

    def instructor_for(self, target: Model) -> Model | None:
        """The open model that is asked in an iteration; None for a server."""
        return (self.instructor or target) if self.config.instructor.in_cluster else None

    def settings_for(
        self, iteration: int, dataset: str | None = None, *, target: Model | None = None, samples_per_request: int = 0
    ) -> StrategySettings:
        """The settings that strategies get for an iteration; with a dataset, its strategy's own too."""
        config = self.config
        return StrategySettings(
            iteration=iteration,
            seed=config.seed,
            samples_per_request=samples_per_request,
            neighbours=config.contrast.neighbours,
            encoder=self.encoder or target or Model("", ""),
            count_cut_off=config.evaluate.count_cut_off,
            show_reference=config.instructor.show_reference,
            contrast_text=config.contrast.text,
            contrast_within=config.contrast.within,
            show_answers=config.contrast.show_answers,
            prompts=config.instructor.prompts,
            explain=config.instructor.explain,
            own=self.strategy_settings[config.schedule.name(iteration, dataset)] if dataset else None,
        )


def _refuse_checks_of_new_problems(config: Config, strategies: Mapping[str, Strategy]) -> None:
    """Raises ConfigError for settings about new problems beside a strategy that has none."""
    for setting in ("solve_again", "rehearse"):
        if (value := getattr(config.curate, setting)) and (
            name := next((name for name, strategy in strategies.items() if strategy.same_questions), None)
        ):
            raise ConfigError(
                f"curate.{setting} = {value} is for new problems, and the samples of strategy {name} are answers to "
                "the training problems themselves. Leave it out."
            )


def _benchmark_names(config: Config) -> Iterable[str]:
    named = config.curate.keep_clear_of if isinstance(config.curate.keep_clear_of, list) else []
    return dict.fromkeys([*config.evaluate.learn_from, *config.evaluate.report_on, *config.data, *named])


def benchmark_of(config: Config, name: str) -> Benchmark:
    """The benchmark that a job means by a name. Raises ConfigError with the names there are."""
    mine = next((settings for settings in config.benchmark if settings.name == name), None)
    if mine is not None:
        return user_benchmark(mine, config.sandbox.min_tier)
    try:
        benchmark: Any = plugins.load("benchmarks", config.evaluate.imported.get(name, name))
    except ConfigError as error:
        added = ", ".join(settings.name for settings in config.benchmark)
        raise ConfigError(f"{error} [[benchmark]] adds: {added}." if added else str(error)) from None
    if name in config.data:
        if benchmark.source is None:
            raise ConfigError(f"data.{name}: this benchmark loads no files; remove it from [data]")
        benchmark = replace(benchmark, source=config.data[name])
    return cast(Benchmark, benchmark)


def _own_settings(config: Config, strategies: Mapping[str, Strategy]) -> dict[str, Any]:
    """Each strategy's own settings. Raises ConfigError for a table without a strategy, or a wrong setting."""
    known = {strategy.name: name for name, strategy in strategies.items()} | {name: name for name in strategies}
    for name in (name for name in config.strategy if name not in known):
        # Another arm of a sweep, or a trial, may use it; what is like a name in use is a typo.
        if name not in plugins.available("strategies") and (meant := plugins.suggestion(name, list(known))):
            raise ConfigError(
                f"[strategy.{name}]: no strategy of this job has that name. {meant}"
                f"schedule.strategy names {', '.join(strategies)}."
            )
    tables = {known[name]: table for name, table in config.strategy.items() if name in known}
    return {name: _settings_of(strategy, tables.get(name, {})) for name, strategy in strategies.items()}


def _settings_of(strategy: Strategy, table: Mapping[str, Any]) -> Any:
    kind: Any = strategy.Settings
    if kind is None:
        if table:
            raise ConfigError(f"[strategy.{strategy.name}] sets {', '.join(table)}; this strategy has no settings")
        return None
    names = list(getattr(kind, "model_fields", None) or kind.__dataclass_fields__)
    if unknown := [name for name in table if name not in names]:
        raise ConfigError(
            f"strategy.{strategy.name}.{unknown[0]}: no such setting. {plugins.suggestion(unknown[0], names)}"
            f"There are: {', '.join(names)}."
        )
    try:
        return TypeAdapter[Any](kind).validate_python(dict(table))
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, ['strategy', strategy.name, *each['loc']]))}: "
            f"{each['msg'].removeprefix('Value error, ')}, not {each['input']!r}"
            for each in error.errors()
        )
        raise ConfigError("\n".join(wrong)) from None
