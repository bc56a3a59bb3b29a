"""A job or a sweep as one `ray job submit`: what is uploaded, what runs there, its name.  runs -> Submission

The current folder is uploaded, and the job runs in that copy: relative paths mean there what they mean here. Nothing is
sent and no Ray is imported here; `lai_ray.distributed.jobs.submit` does that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError

ADDRESS = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens unless it is told otherwise."""
RUN = "lai_run"
"""A submitted job's metadata: the folder of its run. By it a later command knows the run again."""
ENVIRONMENT_FILE = "runtime_env.yaml"
ENVIRONMENT: dict[str, Any] = {
    "env_vars": {
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "COLUMNS": "120",
    },
    "excludes": [
        "/.git/", ".venv/", "/runs/", "__pycache__/", ".*_cache/", ".env", ".env.*", "*.pem", "auth_token",
    ],
}  # fmt: skip
"""The runtime environment of a job without a runtime_env.yaml beside it."""
SECRET_NAME = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
SHORTEST_SECRET = 8
"""Characters. A shorter value may stand in a text by chance."""
SHORTEST_OTHER = 16
"""The same, of a variable that is only called like one that holds a secret."""


@dataclass(frozen=True)
class Submission:
    """What `ray job submit` is told."""

    run: str
    """The run's folder."""
    name: str
    words: tuple[str, ...]
    """The command that runs there, from the uploaded folder."""
    folder: str
    """What is uploaded: an absolute path."""
    environment: Mapping[str, Any]
    """The runtime environment, but for the folder."""
    environment_file: str | None
    """Where it stands, if in a file: an absolute path."""
    files: tuple[str, ...]
    """What the job reads of the uploaded folder, relative to it."""
    key_variables: tuple[str, ...] = ()
    """Where instructors' keys are, on the nodes and perhaps here."""

    @property
    def entrypoint(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.words)

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray keeps beside the job."""
        return {RUN: self.run}

    def line(self, address: str, submission_id: str | None = None) -> str:
        """The same as one shell command, which may be pasted anywhere. Ray makes up an id where none is given."""
        if self.environment_file:
            environment = ["--runtime-env", self.environment_file]
        else:
            environment = ["--runtime-env-json", json.dumps(self.environment)]
        words = ["ray", "job", "submit", "--address", address]
        words += ["--submission-id", submission_id] if submission_id else []
        words += ["--working-dir", self.folder, *environment, "--metadata-json", json.dumps(self.metadata)]
        return f"{prefix(address)}{shlex.join([*words, '--', *self.words])}"


def of(job: Path, overrides: Sequence[str] = (), *, until: str | None = None, reuse: Sequence[str] = ()) -> Submission:
    """What `lai run` with these arguments is as a submitted job.

    Raises ConfigError for what could only go wrong there: a relative storage, files that would not travel, and keys
    where others can read them.
    """
    config = job_file.read(job, list(overrides))
    job_file.check_until(config, until)
    for other in reuse:
        if not _everywhere(other):
            raise ConfigError(f"--reuse {other} is a relative path: name the run's folder as every node sees it")
    options = [*(["--until", until] if until else []), *(word for run in reuse for word in ("--reuse", run))]
    words = ("run", inside(str(job), "the job file"), *overrides, *options)
    return for_runs([Planned(job, overrides, config)], words, place=config.place, name=config.name)


@dataclass(frozen=True)
class Planned:
    """A run that a submitted command makes."""

    job: Path
    overrides: Sequence[str]
    config: Config
    """What the two come to."""


def for_runs(
    runs: Sequence[Planned], command: Sequence[str], *, place: str, name: str, above: Path | None = None
) -> Submission:
    """`lai COMMAND` as a submitted job, for the runs it makes (at least one; `of` is for one alone).

    place: the folder that tells it from others.  above: a file that names the jobs; a runtime environment beside it
    goes before one beside them. Raises ConfigError as `of` does.
    """
    for run in runs:
        shared_storage(run.config.storage)
    folder, words = os.getcwd(), ("python", "-m", "lai_ray", *command)
    folders = [path.absolute().parent for path in ([above] if above else []) + [run.job for run in runs]]
    beside = [found / ENVIRONMENT_FILE for found in folders]
    file = next((found for found in beside if found.is_file()), None)
    environment = _read_environment(file) if file else ENVIRONMENT
    keys = tuple(dict.fromkeys(key for run in runs if (key := run.config.instructor.api_key_env)))
    _keep_secrets(keys, words, environment, str(file or beside[0]))
    files = {inside(str(above), "the sweep file"): None} if above else {}
    for run in runs:
        files[inside(str(run.job), "the job file")] = None
        files |= dict.fromkeys(_files(run.job, run.overrides, run.config))
    return Submission(
        run=place,
        name=name,
        words=words,
        folder=folder,
        environment=environment,
        environment_file=os.path.normpath(file) if file else None,
        files=tuple(files),
        key_variables=keys,
    )


def shared_storage(storage: str) -> None:
    """Raises ConfigError when a submitted job would lose what it writes."""
    if not _everywhere(storage):
        raise ConfigError(
            f"storage = {storage!r} is a relative path: in a submitted job that is the copy of the code, which "
            "goes with the job. Name a folder that every node sees, as in storage=/mnt/shared/runs."
        )


def address_of(given: str | None) -> str:
    """The dashboard to talk to: as given, as Ray's variables say, or on this machine. Raises ConfigError."""
    where = "--address"
    if given is None:
        for where in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            if given := os.environ.get(where):
                break
    address = (given or ADDRESS).rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", address):
        raise ConfigError(
            f"{where}: {address!r} is no address of Ray's dashboard, which takes jobs. Write http://HOST:8265 (the "
            "port of the dashboard, not 6379 or 10001); on a cloud or Kubernetes that is the near end of your tunnel."
        )
    return address


def token_source() -> str | None:
    """Where Ray will find a token on this machine, in words; None where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the variable RAY_AUTH_TOKEN"
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"{named}, named by RAY_AUTH_TOKEN_PATH"
    return "~/.ray/auth_token" if (Path.home() / ".ray" / "auth_token").is_file() else None


def prefix(address: str) -> str:
    """What stands before a `ray job …` for this address, so that it does what `lai submit` does.

    Ray's command sends a token only in token mode, and thinks more of RAY_ADDRESS than of --address.
    """
    said = [] if "RAY_AUTH_MODE" in os.environ or token_source() is None else ["RAY_AUTH_MODE=token"]
    if os.environ.get("RAY_API_SERVER_ADDRESS", os.environ.get("RAY_ADDRESS", address)) != address:
        said.append(f"RAY_API_SERVER_ADDRESS={shlex.quote(address)}")
    return "".join(f"{word} " for word in said)


def secrets_here(variables: Sequence[str]) -> dict[str, str]:
    """What this process has in the instructors' variables and in all that are called like one with a secret, by name.

    Values that are too short to be looked for are left out, and the paths of files.
    """
    found = {variable: os.environ.get(variable, "") for variable in variables}
    found = {name: value for name, value in found.items() if len(value) >= SHORTEST_SECRET}
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_OTHER and not os.path.exists(value):
            found.setdefault(name, value)
    return found


def _everywhere(path: str) -> bool:
    return "://" in path or os.path.isabs(path)


def inside(path: str, what: str) -> str:
    """The path from the current folder on. Raises ConfigError when it leads out of it."""
    folder = os.getcwd()
    relative = os.path.relpath(os.path.abspath(path), folder)
    if relative.split(os.sep)[0] == os.pardir:
        raise ConfigError(
            f"{path}: {what} lies outside of {folder}, the current folder, which is what the cluster gets. Give this "
            "command from a folder that holds it"
            + (", or name a path that every node sees." if not what.endswith((" job file", " sweep file")) else ".")
        )
    return relative


def _files(job: Path, overrides: Sequence[str], config: Config) -> Iterator[str]:
    """Everything else that the job reads of the folder. Raises ConfigError for what is not there, or not in it."""
    for path in job_file.chain(job)[1:]:
        yield inside(str(path), "a file that the job extends")
    named: list[tuple[str, str]] = []
    named += [
        (name, f"target.attempts.{key}") for key, paths in config.target.attempts.items() for name in _list(paths)
    ]
    for own in config.benchmark:
        splits = {} if own.hub else {"train": own.train, "dev": own.dev, "test": own.test}
        named += [(path, f"[[benchmark]] {own.name}, {split}") for split, path in splits.items() if path]
    for place, what in named:
        if not (_everywhere(place) or place.startswith("~")):
            if not Path(place).exists():
                raise ConfigError(
                    f"{what}: no file or folder {place!r} in {os.getcwd()}, which is what the cluster gets"
                )
            yield inside(place, what)
    # These may be names on the hub instead, and prompts are in the job already.
    folders = {"target.model": config.target.model, "contrast.encoder": config.contrast.encoder}
    folders |= {"instructor.model": config.instructor.model} if config.instructor.in_cluster else {}
    folders |= {f"[data] {name}": place for name, place in config.data.items()}
    folders |= {"instructor.prompts": job_file.prompts_folder(job, overrides)}
    for what, place in folders.items():
        if place and not os.path.isabs(place) and Path(place).is_dir():
            yield inside(place, what)


def _list(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths


def _read_environment(path: Path) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable runtime environment: {error}") from error
    if not isinstance(table, dict) or "working_dir" in table:
        what = "its working_dir would go before the current folder" if isinstance(table, dict) else "it holds no table"
        raise ConfigError(f"{path}: {what}. It may hold env_vars, excludes, pip …; jobs/runtime_env.yaml is one.")
    return table


def _keep_secrets(keys: Sequence[str], words: Sequence[str], environment: Mapping[str, Any], beside: str) -> None:
    """Raises ConfigError when a key would stand where others read it. Does not repeat the key."""
    shown = "Ray shows that on its dashboard and writes it to its logs"
    variables = environment.get("env_vars") or {}
    for variable in variables:
        if variable in keys or SECRET_NAME.search(variable):
            raise ConfigError(
                f"{beside}: env_vars sets {variable}, and {shown}. Set it in the environment of `ray start` on the "
                "nodes, and take it out there."
            )
    for what, text in (("this command", "\0".join(words)), (beside, json.dumps(environment, default=str))):
        for held, key in secrets_here(keys).items():
            if key in text:
                raise ConfigError(
                    f"{what} holds the value of {held}, and {shown}. Take it out: only its name may stand."
                )
