"""Checks that Ray uploads every file that a job reads, and no secret.  Submission -> ok or ConfigError"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from lai_ray.distributed.jobs.client import quiet_ray
from lai_ray.distributed.jobs.submission import Submission, secrets_here
from lai_ray.errors import ConfigError

SECRET_FILE = re.compile(r"\.env(\..+)?|.+\.pem|auth_token|id_[a-z0-9]+")
"""Names of files that usually hold one."""
LARGEST_SEARCHED = 1 << 20
"""Bytes of a file that is searched for secrets."""


def check(submission: Submission, say: Callable[[str], None]) -> None:
    """Raises ConfigError if a file of the job would not be uploaded, or one with a secret of this shell would be."""
    folder, files = Path(submission.folder), _uploaded(submission)
    included = {path for file in files for path in (file, *file.parents)}
    if missing := next((name for name in submission.files if folder / name not in included), None):
        raise ConfigError(
            f"{missing}: it is in {folder}, but .rayignore, .gitignore or the runtime environment's `excludes` keep "
            "it out of the upload. Remove it from them, or name a path that every node sees."
        )
    secrets = {name: value.encode() for name, value in secrets_here(submission.key_variables).items()}
    for path in sorted(files):
        content = _read(path) if secrets else b""
        if name := next((name for name, value in secrets.items() if value in content), None):
            raise ConfigError(
                f"{path} holds the value of {name} and would be uploaded, for everybody on the cluster to read. "
                "Remove it, or list the file in .rayignore."
            )
        if SECRET_FILE.fullmatch(path.name):
            say(f"note: {path} is uploaded with the rest; list it in .rayignore if it holds a key")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_SEARCHED else b""
    except OSError:  # Ray skips what it cannot read, too.
        return b""


def _uploaded(submission: Submission) -> set[Path]:
    """The files that Ray will upload, by Ray's own rules."""
    quiet_ray()
    folder, found = Path(submission.folder), list[Path]()
    excludes = list(submission.environment.get("excludes") or [])
    gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    try:
        from ray._private.runtime_env import packaging

        filters = [packaging._get_excludes(folder, excludes)] if excludes else []
        log = logging.getLogger("ray")
        packaging._dir_travel(folder, filters, found.append, include_gitignore=gitignore, logger=log)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"this version of Ray does not list the files that it uploads ({error}), so they cannot be checked for "
            "secrets. `lai submit --print` prints the equivalent `ray job submit` command, which does not check."
        ) from error
    return {path for path in found if path.is_file()}
