"""Reads a job file: TOML, `extends`, and `key=value` overrides.  path, overrides -> Config

An unknown key is an error with a suggestion, before anything starts. Imports neither torch nor ray.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lai_ray.common.plugins import suggestion
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError

IN_A_SEARCH = ("diagnose", "instruct", "curate", "rehearse", "train")
"""Stages that run once for each pool or trial of a search."""


def read(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The job in a TOML file, with `key=value` overrides. Raises ConfigError with the key and what to do."""
    table = read_table(Path(path))
    for override in overrides or []:
        _override(table, override)
    table.setdefault("name", Path(path).stem)
    return parse(table, where=str(path))


def read_table(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One job file as a table, merged over the file that it extends."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself, through {' -> '.join(str(p) for p in seen)}")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        whose = f" It is named by extends in {seen[-1]}, relative to that file." if seen else ""
        raise ConfigError(
            f"{path}: no such job file.{whose} {suggestion(path.name, near)}In its folder: {', '.join(near) or 'none'}."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if _means_a_sweep(table):
        raise ConfigError(
            f"{path}: this is a sweep file, not a job: `lai sweep {shlex.quote(str(path))}` "
            "(--plan shows what it would do)"
        )
    instructor = table.get("instructor")
    if isinstance(instructor, dict) and instructor.get("prompts") and isinstance(instructor["prompts"], str):
        instructor["prompts"] = str(path.parent / Path(instructor["prompts"]).expanduser())
    parent = table.pop("extends", None)
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends is {parent!r}; give one file name")
    return _merged(read_table(path.parent / parent, (*seen, path.resolve())), table)


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep's. One that cannot be read counts as a job; `read` reports it."""
    try:
        return _means_a_sweep(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return False


def _means_a_sweep(table: dict[str, Any]) -> bool:
    """It names a job, and has no table of one."""
    return "job" in table and not {"extends", "target", "instructor"} & set(table)


def check_until(config: Config, until: str | None) -> None:
    """Raises ConfigError for a stage that a run of this job does not have: it would run to its end."""
    if until is None:
        return
    number, _, stage = until.removeprefix("iteration_").rpartition("/")
    last = config.iterations if stage == "evaluate" else config.iterations - 1
    if number and not (number.isdecimal() and int(number) <= last):
        has = f"iterations 0 to {last}" if last > 0 else "iteration 0 only" if last == 0 else "no iteration"
        raise ConfigError(
            f"--until {until}: there is no such stage; {stage} runs in {has} (iterations = {config.iterations})"
        )
    if last < 0:
        raise ConfigError(f"--until {until}: with iterations = 0 there is only evaluate")
    if config.search is None and stage == "search":
        raise ConfigError(f"--until {until}: this job has no [search]")
    if stage == "rehearse" and not config.curate.rehearse:
        raise ConfigError(f"--until {until}: this job rehearses nothing (curate.rehearse = 0)")
    if config.search is not None and stage in IN_A_SEARCH:
        raise ConfigError(
            f"--until {until}: in a job with [search] this is part of the search; stop after evaluate or search"
        )


def chain(path: str | Path) -> list[Path]:
    """A readable job file, then those that it extends, nearest first."""
    files = [Path(path)]
    while parent := tomllib.loads(files[-1].read_text(encoding="utf-8-sig")).get("extends"):
        files.append(files[-1].parent / parent)
    return files


def prompts_folder(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """The folder of the job's own prompts; "" where it has none."""
    table = read_table(Path(path))
    for override in overrides:
        _override(table, override)
    return str(table["instructor"].get("prompts", ""))


LISTS = ("learning_rate", "neighbours", "samples_per_dataset", "seeds")


def parse(table: dict[str, Any], *, where: str = "job") -> Config:
    """A table as a Config. Raises ConfigError with one line for each mistake.

    `instructor.prompts` may be a folder (on the command line: relative to the current one); its texts replace it.
    """
    instructor = table.get("instructor")
    if isinstance(instructor, dict) and isinstance(instructor.get("prompts"), str):
        table = table | {"instructor": instructor | {"prompts": _texts_in(instructor["prompts"])}}
    search = table.get("search")
    if isinstance(search, dict) and (empty := next((name for name in LISTS if search.get(name) == []), None)):
        raise ConfigError(
            f"{where}: search.{empty} is an empty list: there would be nothing to try. List at least one value, or "
            "leave it out."
        )
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(where, problem) for problem in error.errors())) from error


def _texts_in(folder: str) -> dict[str, str]:
    """The prompts of a folder by file name without ".txt"; none for "". Raises ConfigError for any other file.

    README files, hidden files and an editor's copies ("le.txt~") are ignored.
    """
    if not folder:
        return {}
    path, where = Path(folder), f"instructor.prompts = {folder!r}"
    if not path.is_dir():
        beside = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
        raise ConfigError(
            f"{where}: no such folder. {suggestion(path.name, beside)}Folders beside it: {', '.join(beside) or 'none'}."
        )
    prompts = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith((".", "README")) or file.name.endswith("~"):
            continue
        if file.suffix != ".txt" or not file.is_file():
            raise ConfigError(f"{where}: {file.name} is not a prompt; prompts are named KIND.txt or KIND.DATASET.txt")
        try:
            prompts[file.name.removesuffix(".txt")] = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not readable as UTF-8 text: {error}") from error
    if not prompts:
        raise ConfigError(f"{where}: no prompt in it; add KIND.txt or KIND.DATASET.txt, or remove the setting")
    return prompts


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not an override; write section.key=value, as in train.learning_rate=1e-5")
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{text!r}: {section!r} is a value, not a section")
    table[last] = _toml_value(value.strip())


def _toml_value(text: str) -> Any:
    """A TOML value; a bare word is a string, so that `name=trial` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(where: str, problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *sections, key = [str(part) for part in problem["loc"]]
        known = list(_section(sections).model_fields)
        inside = f"[{'.'.join(sections)}]" if sections else "the top level"
        return f"{where}: unknown key {path!r}. {suggestion(key, known)}{inside} has: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{where}: {path} is missing."
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    if path == "benchmark" and isinstance(given, dict):
        return f"{where}: [benchmark] is a list of tables: write [[benchmark]], once for each of your data sets."
    if problem["type"] == "string_type" and isinstance(given, int | float):
        message += f' in quotation marks, "{given}" (on a command line \'{path}="{given}"\')'
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {path}: {message[:1].lower()}{message[1:]}{shown}." if path else f"{where}: {message}."


def _section(path: list[str]) -> type[BaseModel]:
    """The model of a (nested) table."""
    model: type[BaseModel] = Config
    for part in path:
        if part.isdigit():  # an index in an array of tables
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return model
