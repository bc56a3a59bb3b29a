"""A job or a sweep as one `ray job submit`: what is uploaded, what runs there, its name.  runs -> Submission

The current folder is uploaded and the job runs in that copy, so relative paths keep their meaning. This module sends
nothing and imports no Ray; `lai_ray.distributed.jobs.submit` does that.
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
from lai_ray.distributed import ray_token
from lai_ray.errors import ConfigError

ADDRESS = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens by default."""
RUN = "lai_run"
"""The key of a submitted job's metadata that holds its run's folder. Later commands find the job by it."""
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
"""Characters. A shorter value may occur in a text by chance."""
SHORTEST_OTHER = 16
"""The same, for a variable that only has the name of a secret."""


@dataclass(frozen=True)
class Submission:
    """The arguments of `ray job submit`."""

    run: str
    """The run's folder."""
    name: str
    words: tuple[str, ...]
    """The command that runs there, from the uploaded folder."""
    folder: str
    """The folder to upload: an absolute path."""
    environment: Mapping[str, Any]
    """The runtime environment, without the folder."""
    environment_file: str | None
    """The absolute path of its file, if it has one."""
    files: tuple[str, ...]
    """What the job reads from the uploaded folder, relative to it."""
    key_variables: tuple[str, ...] = ()
    """Variables that hold instructors' keys, on the nodes and perhaps here."""

    @property
    def entrypoint(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.words)

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray stores with the job."""
        return {RUN: self.run}

    def line(self, address: str, submission_id: str | None = None) -> str:
        """The same as one shell command, for any folder. Without an id, Ray generates one."""
        if self.environment_file:
            environment = ["--runtime-env", self.environment_file]
        else:
            environment = ["--runtime-env-json", json.dumps(self.environment)]
        words = ["ray", "job", "submit", "--address", address]
        words += ["--submission-id", submission_id] if submission_id else []
        words += ["--working-dir", self.folder, *environment, "--metadata-json", json.dumps(self.metadata)]
        return f"{prefix(address)}{shlex.join([*words, '--', *self.words])}"


def of(job: Path, overrides: Sequence[str] = (), *, until: str | None = None, reuse: Sequence[str] = ()) -> Submission:
    """`lai run` with these arguments, as a submitted job.

    Raises ConfigError for what would fail on the cluster: a relative storage, files outside of the upload, and keys
    that others could read.
    """
    config = job_file.read(job, list(overrides))
    job_file.check_until(config, until)
    for other in reuse:
        if not _is_global(other):
            raise ConfigError(f"--reuse {other} is a relative path: name the run's folder as every node sees it")
    options = [*(["--until", until] if until else []), *(word for run in reuse for word in ("--reuse", run))]
    words = ("run", inside(str(job), "the job file"), *overrides, *options)
    return for_runs([Planned(job, overrides, config)], words, place=config.run_folder, name=config.name)


@dataclass(frozen=True)
class Planned:
    """A run of a submitted command."""

    job: Path
    overrides: Sequence[str]
    config: Config
    """Of the two."""


def for_runs(
    runs: Sequence[Planned], command: Sequence[str], *, place: str, name: str, above: Path | None = None
) -> Submission:
    """`lai COMMAND` as a submitted job, for one or more runs.

    place: the folder that identifies it.  above: a file that names the jobs; a runtime environment beside it takes
    precedence over one beside them. Raises ConfigError as `of` does.
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
    """Raises ConfigError if the run's folder would be in the job's copy of the code, which Ray deletes."""
    if not _is_global(storage):
        raise ConfigError(
            f"storage = {storage!r} is a relative path: in a submitted job that is the copy of the code, which "
            "is deleted with the job. Name a folder that every node sees, as in storage=/mnt/shared/runs."
        )


def address_of(given: str | None) -> str:
    """The dashboard's address: as given, from Ray's variables, or on this machine. Raises ConfigError."""
    where = "--address"
    if given is None:
        for where in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            if given := os.environ.get(where):
                break
    address = (given or ADDRESS).rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", address):
        raise ConfigError(
            f"{where}: {address!r} is no address of Ray's dashboard, which accepts jobs. Write http://HOST:8265 (the "
            "dashboard's port, not 6379 or 10001); on a cloud or Kubernetes, the local end of your tunnel."
        )
    return address


def prefix(address: str) -> str:
    """Variables before a `ray job …` for this address, so that it does what `lai submit` does.

    Ray's command sends a token only in token mode, and RAY_ADDRESS overrides --address.
    """
    variables = [] if "RAY_AUTH_MODE" in os.environ or ray_token.find() is None else ["RAY_AUTH_MODE=token"]
    if os.environ.get("RAY_API_SERVER_ADDRESS", os.environ.get("RAY_ADDRESS", address)) != address:
        variables.append(f"RAY_API_SERVER_ADDRESS={shlex.quote(address)}")
    return "".join(f"{word} " for word in variables)


def secrets_here(variables: Sequence[str]) -> dict[str, str]:
    """The values of the instructors' variables, and of all variables named like a secret, by name.

    Without values that are too short to search for, and paths of files.
    """
    found = {variable: os.environ.get(variable, "") for variable in variables}
    found = {name: value for name, value in found.items() if len(value) >= SHORTEST_SECRET}
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_OTHER and not os.path.exists(value):
            found.setdefault(name, value)
    return found


def _is_global(path: str) -> bool:
    return "://" in path or os.path.isabs(path)


def inside(path: str, what: str) -> str:
    """The path relative to the current folder. Raises ConfigError if it is outside of it."""
    folder = os.getcwd()
    relative = os.path.relpath(os.path.abspath(path), folder)
    if relative.split(os.sep)[0] == os.pardir:
        raise ConfigError(
            f"{path}: {what} is outside of {folder}, the current folder, which is what the cluster gets. Run this "
            "command from a folder that contains it"
            + (", or name a path that every node sees." if not what.endswith((" job file", " sweep file")) else ".")
        )
    return relative


def _files(job: Path, overrides: Sequence[str], config: Config) -> Iterator[str]:
    """Everything else that the job reads. Raises ConfigError for what does not exist or is outside of the folder."""
    for extended in job_file.chain(job)[1:]:
        yield inside(str(extended), "a file that the job extends")
    named: list[tuple[str, str]] = []
    named += [
        (name, f"target.attempts.{key}") for key, paths in config.target.attempts.items() for name in _list(paths)
    ]
    for own in config.benchmark:
        splits = {} if own.hub else {"train": own.train, "dev": own.dev, "test": own.test}
        named += [(path, f"[[benchmark]] {own.name}, {split}") for split, path in splits.items() if path]
    for path, what in named:
        if not (_is_global(path) or path.startswith("~")):
            if not Path(path).exists():
                raise ConfigError(
                    f"{what}: no file or folder {path!r} in {os.getcwd()}, which is what the cluster gets"
                )
            yield inside(path, what)
    # These may be names on the hub instead.
    folders = {"target.model": config.target.model, "contrast.encoder": config.contrast.encoder}
    folders |= {"instructor.model": config.instructor.model} if config.instructor.in_cluster else {}
    folders |= {f"[data] {name}": path for name, path in config.data.items()}
    folders |= {"instructor.prompts": job_file.prompts_folder(job, overrides)}
    for what, path in folders.items():
        if path and not os.path.isabs(path) and Path(path).is_dir():
            yield inside(path, what)


def _list(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths


def _read_environment(path: Path) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable runtime environment: {error}") from error
    if not isinstance(table, dict) or "working_dir" in table:
        what = "its working_dir would replace the current folder" if isinstance(table, dict) else "it is no table"
        raise ConfigError(f"{path}: {what}. It may contain env_vars, excludes, pip …; jobs/runtime_env.yaml is one.")
    return table


def _keep_secrets(keys: Sequence[str], words: Sequence[str], environment: Mapping[str, Any], beside: str) -> None:
    """Raises ConfigError, without the key in it, if others could read a key."""
    shown = "Ray shows that on its dashboard and writes it to its logs"
    variables = environment.get("env_vars") or {}
    for variable in variables:
        if variable in keys or SECRET_NAME.search(variable):
            raise ConfigError(
                f"{beside}: env_vars sets {variable}, and {shown}. Set it in the environment of `ray start` on the "
                "nodes, and remove it there."
            )
    for what, text in (("this command", "\0".join(words)), (beside, json.dumps(environment, default=str))):
        for name, key in secrets_here(keys).items():
            if key in text:
                raise ConfigError(f"{what} holds the value of {name}, and {shown}. Write only the variable's name.")
