"""Reads a sweep file.  TOML -> Sweep, whose members are whole, valid jobs

job = "../quickstart.toml"        # common to all runs; the path is relative to this file
seeds = [0, 1, 2]
at_once = 2
[grid]                            # all combinations of these lists; any setting of a job, dotted
contrast.neighbours = [1, 3]
[arms.le]                         # named groups of settings that change together
schedule.strategy = "le"
[arms.lec]
schedule.strategy = "lec"
target.model = "students/{seed}"  # in a text, the run's seed
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from lai_ray.common.plugins import suggestion
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.config.settings import Section
from lai_ray.errors import ConfigError
from lai_ray.storage.keys import key_of

MAX_NAME = 60
"""Characters of a run's name; a longer one is cut, and made unique by a hash of its settings."""
RESERVED = {"seed", "name", "storage"}
SECTIONS = {
    name
    for name, field in Config.model_fields.items()
    for kind in (field.annotation, *get_args(field.annotation))
    if isinstance(kind, type) and issubclass(kind, Section)
}
"""The sections of a job; every other table in it is a setting's value."""


class SweepSettings(Section):
    """The contents of a sweep file."""

    job: str
    name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")
    seeds: list[int] = Field([])
    """Default: the job's own seed."""
    at_once: Annotated[int, Field(ge=1)] = 1
    """Concurrent runs; with GPUs they need one cluster to join (cluster.address), which assigns the GPUs."""
    grid: dict[str, Any] = Field({})
    arms: dict[str, dict[str, Any]] = Field({})


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    arm: str
    settings: dict[str, Any]
    """Its settings of the arm and the grid, dotted; not its seed."""
    varied: dict[str, Any]
    """Those of the grid."""
    seed: int
    config: Config

    def overrides(self) -> list[str]:
        """For `lai run` on the sweep's job."""
        own = {"name": self.name, "storage": self.config.storage, "seed": self.seed}
        return [f"{key}={toml(value)}" for key, value in {**self.settings, **own}.items()]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep file."""

    name: str
    job: str
    overrides: list[str]
    """From the command line, for every run."""
    at_once: int
    storage: str
    """The folder of its runs."""
    members: list[Member]


def read(path: Path, overrides: list[str] | None = None) -> Sweep:
    """The sweep in a file. Raises ConfigError for a wrong setting, with the name of its run."""
    overrides = overrides or []
    settings = _settings(path)
    _check_overrides(path, settings, overrides)
    job = str(path.parent / settings.job)
    base = job_file.read(job, overrides)
    sweep_name = settings.name or path.stem
    storage = f"{base.storage.rstrip('/')}/{sweep_name}"
    members: list[Member] = []
    combinations = list(_combinations(settings, base, str(path)))
    grid = _dotted(settings.grid)
    names = [
        _name(arm, {k: table[k] for k in grid}, seed if settings.seeds else None) for arm, table, seed in combinations
    ]
    for (arm, table, seed), short in zip(combinations, names, strict=True):
        ambiguous = len(short) >= MAX_NAME or names.count(short) > 1
        name = f"{short}-{key_of(arm, table, seed)[:6]}" if ambiguous else short
        in_sweep = base.model_copy(update={"storage": storage})
        member = Member(name, arm, table, {key: table[key] for key in grid}, seed, in_sweep)
        try:
            config = job_file.read(job, [*overrides, *member.overrides()])
        except ConfigError as error:
            raise ConfigError(f"{path}, run {name}: {error}") from error
        members.append(replace(member, config=config))
    _check_distinct(path, members)
    return Sweep(sweep_name, job, overrides, settings.at_once, storage, members)


def toml(value: Any) -> str:
    """A value in TOML; no setting is a date."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def _dotted(table: dict[str, Any]) -> dict[str, Any]:
    """With dotted keys, for `train.epochs` as for `"train.epochs"`; a table that is a setting's value is unchanged."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        inner = value if key in SECTIONS and isinstance(value, dict) else {"": value}
        dotted = {f"{key}.{name}".rstrip("."): one for name, one in inner.items()}
        if twice := sorted(set(dotted) & set(result)):
            raise ConfigError(f"{', '.join(twice)} is set twice, dotted and as a table; remove one of them")
        result |= dotted
    return result


def _settings(path: Path) -> SweepSettings:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such sweep file. {suggestion(path.name, near)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if "job" not in table and {"extends", "target", "instructor"} & set(table):
            raise ConfigError(
                f"{path}: this is a job file, not a sweep: `lai run {shlex.quote(str(path))}`. "
                "A sweep file names a job: job = …"
            )
        settings = SweepSettings.model_validate(table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        known = ", ".join(SweepSettings.model_fields)
        lines = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("\n".join(lines) + f"\nA sweep file has {known}.") from error
    grid = _dotted(settings.grid)
    for where, table in (("grid", grid), *((f"arms.{name}", _dotted(t)) for name, t in settings.arms.items())):
        if reserved := sorted(RESERVED & set(table)):
            raise ConfigError(
                f"{path}: {where} sets {', '.join(reserved)}. Seeds are listed in seeds = […]; the sweep sets name and "
                "storage of its runs"
            )
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid.{key} is {values!r}; give a list of values")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise ConfigError(f"{path}: seeds has a duplicate: {settings.seeds}")
    return settings


def _check_overrides(path: Path, settings: SweepSettings, overrides: list[str]) -> None:
    """Raises ConfigError for a setting of the command line that the sweep sets itself."""
    swept = {key for table in (settings.grid, *settings.arms.values()) for key in _dotted(table)}
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in RESERVED - {"storage"}:
            raise ConfigError(f"{override}: the sweep sets the names and seeds of its runs; change the seeds in {path}")
        if both := sorted(name for name in swept if name == key or name.startswith(f"{key}.")):
            raise ConfigError(f"{override}: {path} sets {', '.join(both)} for its runs; change it there")


def _check_distinct(path: Path, members: list[Member]) -> None:
    """Raises ConfigError when two runs are the same."""
    known: dict[str, Member] = {}
    for member in members:
        other = known.setdefault(key_of(member.config.model_dump(mode="json", exclude={"name"})), member)
        if other is not member:
            raise ConfigError(
                f"{path}: {other.name} and {member.name} are the same run, which a mean over seeds would count twice: "
                "a list has a duplicate value, or two arms have the same settings"
            )


def _combinations(settings: SweepSettings, base: Config, where: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(arm, dotted settings, seed), seeds innermost."""
    grid, arms = _dotted(settings.grid), {name: _dotted(table) for name, table in settings.arms.items()}
    for arm, table in (arms or {"": {}}).items():
        if both := sorted(set(table) & set(grid)):
            raise ConfigError(f"{where}: arms.{arm} and grid both set {', '.join(both)}; remove one of them")
        for values in itertools.product(*grid.values()):
            for seed in settings.seeds or [base.seed]:
                whole = {**table, **dict(zip(grid, values, strict=True))}
                yield arm, {key: _with_seed(value, seed) for key, value in whole.items()}, seed


def _with_seed(value: Any, seed: int) -> Any:
    """A text with the run's seed in the place of {seed}: each seed may have a model or a file of its own."""
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else value


def _name(arm: str, varied: dict[str, Any], seed: int | None) -> str:
    """ "lec-neighbours_3-seed_0": short, and valid as the name of a folder."""
    parts = [arm, *(f"{key.rpartition('.')[2]}_{_slug(value)}" for key, value in varied.items())]
    parts += [f"seed_{seed}"] if seed is not None else []
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(filter(None, parts)))[:MAX_NAME].strip("._-") or "run"


def _slug(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")
