"""One job: the tables of `settings`, and checks across them. `job_file` reads it from TOML."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from lai_ray.common.plugins import available, load
from lai_ray.config.settings import (
    OWN_NAME,
    BenchmarkSettings,
    ClusterSettings,
    ContrastSettings,
    CurateSettings,
    EvaluateSettings,
    InstructorSettings,
    LimitSettings,
    ReportSettings,
    SandboxSettings,
    ScheduleSettings,
    SearchSettings,
    Section,
    TargetSettings,
    TrainSettings,
)
from lai_ray.errors import ConfigError

NAMING_BENCHMARKS = ("target", "evaluate", "schedule", "curate", "search", "data")
"""Tables in which a benchmark's name may occur."""


class Config(Section):
    """One job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    iterations: Annotated[int, Field(ge=0)] = 3
    seed: int = 0
    storage: str = Field("runs", min_length=1)
    target: TargetSettings
    evaluate: EvaluateSettings
    schedule: ScheduleSettings = ScheduleSettings()
    strategy: dict[str, dict[str, Any]] = Field({})
    """Strategies' own settings, a table for each: [strategy.NAME]."""
    contrast: ContrastSettings = ContrastSettings()
    instructor: InstructorSettings
    curate: CurateSettings = CurateSettings()
    train: TrainSettings = TrainSettings()
    search: SearchSettings | None = None
    data: dict[str, Annotated[str, Field(min_length=1)]] = Field({})
    """A benchmark's upstream files, by its name: a local folder, or a name on the Hugging Face hub."""
    benchmark: list[BenchmarkSettings] = Field([])
    """The user's own data."""
    sandbox: SandboxSettings = SandboxSettings()
    limits: LimitSettings = LimitSettings()
    cluster: ClusterSettings = ClusterSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="before")
    @classmethod
    def _tests_need_no_instructor(cls, table: Any) -> Any:
        needless = isinstance(table, dict) and (_only_tests(table) or _asks_nobody(table))
        return {"instructor": {"model": "none"}} | table if needless else table

    @model_validator(mode="before")
    @classmethod
    def _imports_by_their_own_names(cls, table: Any) -> Any:
        """A benchmark named by import has its own name in the whole job, as in its files and problem ids.

        One that cannot be imported stays as it is; `Job.of` reports it.
        """
        if not (isinstance(table, dict) and isinstance(evaluate := table.get("evaluate"), dict)):
            return table
        listed = [name for key in ("learn_from", "report_on") for name in _texts(evaluate.get(key))]
        own: dict[str, str] = {}
        for name in dict.fromkeys(name for name in listed if ":" in name):
            with suppress(ConfigError):
                own[name] = str(getattr(load("benchmarks", name), "name", name))
        taken = {name: name for name in listed if name not in own}
        mine = table.get("benchmark")
        tables = [each for each in mine if isinstance(each, dict)] if isinstance(mine, list) else []
        taken |= {each["name"]: "[[benchmark]]" for each in tables if isinstance(each.get("name"), str)}
        for name, called in own.items():
            if called != name and not re.fullmatch(OWN_NAME, called):
                raise ValueError(f"{name} has the name {called!r}; a name consists of letters, digits, _, . and -")
            if (other := taken.setdefault(called, name)) != name:
                raise ValueError(f"{name} has the name {called!r}, and so has {other}: remove one of them")
        imported = {called: name for name, called in own.items() if called != name}
        if not imported:
            return table
        sections = {key: _renamed(table[key], own) for key in NAMING_BENCHMARKS if key in table}
        sections["evaluate"]["imported"] = imported
        return table | sections

    def dumped(self) -> dict[str, Any]:
        """A table from which the same job can be read: a limit that it does not set stays unset."""
        return self.model_dump() | {"limits": self.limits.model_dump(exclude_unset=True)}

    @field_validator("benchmark")
    @classmethod
    def _names_of_their_own(cls, own: list[BenchmarkSettings]) -> list[BenchmarkSettings]:
        built_in = available("benchmarks")
        for i, settings in enumerate(own):
            if settings.name in built_in:
                raise ValueError(f"{settings.name!r} is a built-in benchmark; give yours another name")
            if settings.name in [other.name for other in own[:i]]:
                raise ValueError(f"two benchmarks have the name {settings.name!r}")
        return own

    @field_validator("evaluate")
    @classmethod
    def _no_benchmark_twice(cls, evaluate: EvaluateSettings) -> EvaluateSettings:
        for key in ("learn_from", "report_on"):
            names = getattr(evaluate, key)
            if len(set(names)) < len(names):
                raise ValueError(f"{key} names a benchmark twice: {', '.join(names)}")
        return evaluate

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Config:
        if self.iterations and not self.evaluate.learn_from:
            raise ValueError(
                f"evaluate.learn_from names no benchmark, and iterations = {self.iterations} learn from mistakes on "
                "one: name at least one, or set iterations = 0 (or use `lai evaluate`) for tests alone"
            )
        return self

    @model_validator(mode="after")
    def _schedule_covers_the_data(self) -> Config:
        strategy = self.schedule.strategy
        if strategy == []:
            raise ValueError("schedule.strategy is an empty list; give at least one strategy")
        if isinstance(strategy, dict) and set(strategy) != set(self.evaluate.learn_from):
            raise ValueError(
                f"schedule.strategy names a strategy for {', '.join(strategy)}; "
                f"evaluate.learn_from has {', '.join(self.evaluate.learn_from)}"
            )
        return self

    @model_validator(mode="after")
    def _sizes_cover_the_data(self) -> Config:
        listed = {"curate.samples_per_dataset": [self.curate.samples_per_dataset]}
        if self.search is not None and self.search.samples_per_dataset:
            listed["search.samples_per_dataset"] = self.search.samples_per_dataset
        for key, sizes in listed.items():
            for size in sizes:
                if isinstance(size, dict) and set(size) != set(self.evaluate.learn_from):
                    raise ValueError(
                        f"{key} has a number for {', '.join(size) or 'no dataset'}; evaluate.learn_from has "
                        f"{', '.join(self.evaluate.learn_from)}. Give each of them a number, or one number for all"
                    )
        return self

    @model_validator(mode="after")
    def _recorded_answers_fit(self) -> Config:
        given, wanted = set(self.target.attempts), set(self.evaluate.learn_from)
        if (self.target.engine == "recorded") != bool(given):
            raise ValueError('target.engine = "recorded" and target.attempts need each other: the engine and its files')
        if given and given != wanted:
            raise ValueError(
                f"target.attempts names files for {', '.join(sorted(given))}; evaluate.learn_from has "
                f"{', '.join(self.evaluate.learn_from)}. Both must name the same; on the command line the table is "
                'replaced by target.attempts={mmlu = "answers"}'
            )
        if given and self.search is not None:
            raise ValueError(
                "[search] compares with the first target's answers to dev problems, and recorded answers are for "
                "training problems only; remove [search], or set target.engine to vllm"
            )
        return self

    @model_validator(mode="after")
    def _chosen_on_what_is_learned_from(self) -> Config:
        if self.search is not None and self.search.metric not in ("dev", *self.evaluate.learn_from):
            raise ValueError(
                f"search.metric is {self.search.metric!r}; candidates are compared on dev splits only: "
                f"'dev' for their mean, or one of {', '.join(self.evaluate.learn_from)}"
            )
        return self

    @model_validator(mode="after")
    def _only_its_own_answers_are_replayed(self) -> Config:
        if self.target.attempts and self.train.replay:
            raise ValueError(
                f"train.replay = {self.train.replay} replays the target's own answers, and target.attempts are answers "
                "from files. Set train.replay = 0, or let target.engine be vllm"
            )
        if self.search is not None and self.train.data == "cumulative":
            raise ValueError(
                'train.data = "cumulative" learns the samples of earlier iterations, which a [search] has in several '
                'pools. Set it to "iteration", or remove [search]'
            )
        return self

    @model_validator(mode="after")
    def _keys_are_checked_once(self) -> Config:
        if self.curate.check_keys and self.curate.solve_again:
            raise ValueError(
                "curate.solve_again = true has every sample solved again, and curate.check_keys = true would ask once "
                "more for some of those whose key it confirmed. Set one of them to false"
            )
        return self

    @model_validator(mode="after")
    def _the_first_target_can_rehearse(self) -> Config:
        if self.target.attempts and self.curate.rehearse:
            raise ValueError(
                f"curate.rehearse = {self.curate.rehearse} asks the first target the new problems, and target.attempts "
                "are its answers from files: it cannot be asked. Set curate.rehearse = 0, or let target.engine be vllm"
            )
        return self

    @model_validator(mode="after")
    def _epochs_are_compared_on_dev(self) -> Config:
        if not self.train.early_stopping:
            return self
        if self.train.epochs == 1:
            raise ValueError(
                "train.early_stopping chooses between the epochs of a training, and train.epochs = 1. Set train.epochs "
                "to 2 or more, or train.early_stopping = false"
            )
        if self.search is not None:
            raise ValueError(
                "train.early_stopping and [search] both choose on the dev splits, and do not work together. Remove "
                '[search], or set train.early_stopping = false and let the search try "train.epochs" in search.grid'
            )
        if self.target.attempts:
            raise ValueError(
                "train.early_stopping compares on dev problems, which are cut from the training problems, and "
                "target.attempts may hold answers to the same ones. Set train.early_stopping = false, or let "
                "target.engine be vllm"
            )
        return self

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> Config:
        names = ("usd_per_million_input", "usd_per_million_output")
        unknown = [f"instructor.{name}" for name in names if getattr(self.instructor, name) is None]
        if unknown and self.iterations and self.limits.max_usd is not None and not self.limits.unknown_price_is_free:
            raise ValueError(
                f"limits.max_usd = {self.limits.max_usd:g} cannot be enforced: the price of {self.instructor.model!r} "
                f"is not known. Set {' and '.join(unknown)} (0 for a free server), or limits.unknown_price_is_free = "
                "true to count its calls as free"
            )
        return self

    @property
    def run_folder(self) -> str:
        """The run's folder or URL."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def strategies(self) -> list[str]:
        """Every strategy of the job: the schedule's, and those that a search tries instead."""
        tried = self.search.grid.get("schedule.strategy", []) if self.search else []
        return [*self.schedule.names(), *(name for one in tried for name in ScheduleSettings(strategy=one).names())]

    def strategies_of(self, dataset: str) -> list[str]:
        """Those of one dataset."""
        tried = self.search.grid.get("schedule.strategy", []) if self.search else []
        schedules = [self.schedule, *(ScheduleSettings(strategy=one) for one in tried)]
        return list(dict.fromkeys(one.name(i, dataset) for one in schedules for i in range(self.iterations)))

    @property
    def objectives(self) -> list[str]:
        """Every training objective of the job: its own, and those that a search tries instead."""
        return [self.train.objective, *(self.search.grid.get("train.objective", []) if self.search else [])]

    @property
    def dev_wanted(self) -> bool:
        """Whether dev splits are evaluated: they choose between the trials of a search, or a training's epochs."""
        return self.search is not None or self.train.early_stopping

    def learning_rate(self, iteration: int) -> float:
        """The starting rate of one iteration, lowered each round."""
        return self.train.learning_rate * self.train.learning_rate_decay**iteration


def _only_tests(table: dict[str, Any]) -> bool:
    return table.get("iterations") == 0 and not isinstance(table.get("iterations"), bool)


def _asks_nobody(table: dict[str, Any]) -> bool:
    """Whether no strategy of the schedule makes requests; further errors in it are found later."""
    schedule, curate, search = (table.get(key) or {} for key in ("schedule", "curate", "search"))
    if not all(isinstance(each, dict) for each in (schedule, curate, search)) or "grid" in search:
        return False
    named = schedule.get("strategy", "lec")
    names = _texts([named] if isinstance(named, str) else [*named.values()] if isinstance(named, dict) else named)
    if not names or curate.get("solve_again") or curate.get("check_keys"):
        return False
    with suppress(ConfigError):
        return not any(getattr(load("strategies", name), "asks", True) for name in names)
    return False


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The same with every key and text that is one of these names replaced."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
