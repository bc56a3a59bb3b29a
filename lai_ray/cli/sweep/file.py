"""A sweep file -> the runs it means.  TOML -> Members, every one a whole job that was read and found sound

job = "../quickstart.toml"        # what all runs have in common, beside this file
seeds = [0, 1, 2]
at_once = 2
[grid]                            # every combination of the lists; any setting of a job, dotted
contrast.neighbours = [1, 3]
[arms.le]                         # settings that change together, by name
schedule.strategy = "le"
[arms.lec]
schedule.strategy = "lec"
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from lai_ray.common.plugins import suggestion
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.config.settings import Section
from lai_ray.errors import ConfigError
from lai_ray.storage.store import key_of

LONGEST = 60
"""Characters of a run's name; a longer one is cut, and told apart by a hash of its settings."""
TAKEN = {"seed", "name", "storage"}
SECTIONS = {
    name
    for name, field in Config.model_fields.items()
    for kind in (field.annotation, *get_args(field.annotation))
    if isinstance(kind, type) and issubclass(kind, Section)
}
"""A job's tables; every other table in it is a setting's value."""


class SweepSettings(Section):
    """A sweep file, as it stands."""

    job: str
    name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")
    seeds: list[int] = Field([])
    """The job's own seed when left out."""
    at_once: Annotated[int, Field(ge=1)] = 1
    """Runs that go on side by side; with GPUs on one cluster (cluster.address), which keeps their places apart."""
    grid: dict[str, Any] = Field({})
    arms: dict[str, dict[str, Any]] = Field({})


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    arm: str
    settings: dict[str, Any]
    """What sets it apart from the others, dotted; not its seed."""
    varied: dict[str, Any]
    """Of these the grid's, which do not come with the arm."""
    seed: int
    config: Config

    def overrides(self) -> list[str]:
        """For `lai run` on the sweep's job."""
        own = {"name": self.name, "storage": self.config.storage, "seed": self.seed}
        return [f"{key}={toml(value)}" for key, value in {**self.settings, **own}.items()]


@dataclass(frozen=True)
class Sweep:
    """All of it."""

    name: str
    job: str
    given: list[str]
    """Overrides of the command line, for every run."""
    at_once: int
    storage: str
    """The folder that its runs are in."""
    members: list[Member]


def read(path: Path, given: list[str] | None = None) -> Sweep:
    """The sweep in a file. Raises ConfigError, which names the run a setting does not fit, before anything starts."""
    settings = _settings(path)
    _check_given(path, settings, given or [])
    job = str(path.parent / settings.job)
    base = job_file.read(job, given)
    name = settings.name or path.stem
    storage = f"{base.storage.rstrip('/')}/{name}"
    members: list[Member] = []
    combinations = list(_combinations(settings, base, str(path)))
    lists = _lists(settings)
    titles = [
        _title(arm, {k: table[k] for k in lists}, seed if settings.seeds else None) for arm, table, seed in combinations
    ]
    for (arm, table, seed), short in zip(combinations, titles, strict=True):
        varied = {key: table[key] for key in lists}
        ambiguous = len(short) >= LONGEST or titles.count(short) > 1
        title = f"{short}-{key_of(arm, table, seed)[:6]}" if ambiguous else short
        member = Member(title, arm, table, varied, seed, base)
        own = [f"name={toml(title)}", f"storage={toml(storage)}"]
        try:
            config = job_file.read(job, [*(given or []), *member.overrides(), *own])
        except ConfigError as error:
            raise ConfigError(f"{path}, run {title}: {error}") from error
        members.append(Member(title, arm, table, varied, seed, config))
    _check_apart(path, members)
    return Sweep(name, job, given or [], settings.at_once, storage, members)


def toml(value: Any) -> str:
    """A value as a TOML file has it; dates are not among settings."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def _dotted(table: dict[str, Any]) -> dict[str, Any]:
    """`train.epochs` and `"train.epochs"` alike; a table that is itself a setting's value stays one."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = value if key in SECTIONS and isinstance(value, dict) else {"": value}
        named = {f"{key}.{name}".rstrip("."): one for name, one in inner.items()}
        if twice := sorted(set(named) & set(found)):
            raise ConfigError(f"{', '.join(twice)} stands there twice, dotted and as a table; one of them must go")
        found |= named
    return found


def _settings(path: Path) -> SweepSettings:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such sweep file. {suggestion(path.name, near)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if "job" not in table and {"extends", "target", "instructor"} & set(table):
            raise ConfigError(
                f"{path}: this is a job file, not a sweep: `lai run {path}`. A sweep names one, as job = …"
            )
        found = SweepSettings.model_validate(table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        known = ", ".join(SweepSettings.model_fields)
        said = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("\n".join(said) + f"\nA sweep file has {known}.") from error
    for where, table in (("grid", _lists(found)), *((f"arms.{name}", _dotted(t)) for name, t in found.arms.items())):
        if taken := sorted(TAKEN & set(table)):
            raise ConfigError(
                f"{path}: {where} sets {', '.join(taken)}. Seeds are listed in seeds = […]; name and storage are the "
                "sweep's own"
            )
    for key, values in _lists(found).items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid.{key} is {values!r}; give a list of the values to try")
    if len(set(found.seeds)) < len(found.seeds):
        raise ConfigError(f"{path}: seeds names one twice: {found.seeds}")
    return found


def _check_given(path: Path, settings: SweepSettings, given: list[str]) -> None:
    """Raises ConfigError for a setting of the command line that the sweep would overrule."""
    swept = {key for table in (settings.grid, *settings.arms.values()) for key in _dotted(table)}
    for override in given:
        key = override.partition("=")[0].strip()
        if key in TAKEN - {"storage"}:
            raise ConfigError(
                f"{override}: the runs of a sweep have names and seeds of their own; seeds stand in {path}"
            )
        if both := sorted(name for name in swept if name == key or name.startswith(f"{key}.")):
            raise ConfigError(f"{override}: {path} sets {', '.join(both)} for its runs; change it there")


def _check_apart(path: Path, members: list[Member]) -> None:
    """Raises ConfigError where two runs would be one and the same."""
    known: dict[str, Member] = {}
    for member in members:
        other = known.setdefault(key_of(member.config.model_dump(mode="json", exclude={"name"})), member)
        if other is not member:
            raise ConfigError(
                f"{path}: {other.name} and {member.name} are the same run, and a mean over seeds would count it twice: "
                "a value stands in a list twice, or an arm twice under two names"
            )


def _lists(settings: SweepSettings) -> dict[str, Any]:
    return _dotted(settings.grid)


def _combinations(settings: SweepSettings, base: Config, where: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(arm, dotted settings, seed), seeds innermost."""
    lists, arms = _lists(settings), {name: _dotted(table) for name, table in settings.arms.items()}
    for arm, table in (arms or {"": {}}).items():
        if both := sorted(set(table) & set(lists)):
            raise ConfigError(f"{where}: arms.{arm} and grid both set {', '.join(both)}; one of them must go")
        for values in itertools.product(*lists.values()):
            for seed in settings.seeds or [base.seed]:
                yield arm, {**table, **dict(zip(lists, values, strict=True))}, seed


def _title(arm: str, varied: dict[str, Any], seed: int | None) -> str:
    """ "lec-neighbours_3-seed_0": short, and good as a folder's name."""
    parts = [arm, *(f"{key.rpartition('.')[2]}_{_slug(value)}" for key, value in varied.items())]
    parts += [f"seed_{seed}"] if seed is not None else []
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(filter(None, parts)))[:LONGEST].strip("._-") or "run"


def _slug(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")
