"""What Ray uploads with a job: all that the job reads, and no secret.  Submission -> ok, or what to do"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from lai_ray.distributed.jobs.client import quiet
from lai_ray.distributed.jobs.submission import Submission, secrets_here
from lai_ray.errors import ConfigError

SECRET_FILE = re.compile(r"\.env(\..+)?|.+\.pem|auth_token|id_[a-z0-9]+")
"""Files that mostly hold one."""
LARGEST_SEARCHED = 1 << 20
"""Bytes of a file that is looked into."""


def check(submission: Submission, say: Callable[[str], None]) -> None:
    """Raises ConfigError when a file of the job would stay here, or one with a secret of this shell's would go."""
    folder, sent = Path(submission.folder), _sent(submission)
    kept = {place for path in sent for place in (path, *path.parents)}
    if missing := next((name for name in submission.files if folder / name not in kept), None):
        raise ConfigError(
            f"{missing}: it is in {folder}, but .rayignore, .gitignore or the runtime environment's `excludes` leave "
            "it out of what the cluster gets. Take it out of them, or name a path that every node sees."
        )
    secrets = {name: value.encode() for name, value in secrets_here(submission.key_variables).items()}
    for path in sorted(sent):
        content = _read(path) if secrets else b""
        if held := next((name for name, value in secrets.items() if value in content), None):
            raise ConfigError(
                f"{path} holds the value of {held} and would be uploaded, for everybody on the cluster to read. Take "
                "it out, or list the file in .rayignore."
            )
        if SECRET_FILE.fullmatch(path.name):
            say(f"note: {path} is uploaded with the rest; list it in .rayignore if it holds a key")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_SEARCHED else b""
    except OSError:  # Ray passes over what it cannot read, too.
        return b""


def _sent(submission: Submission) -> set[Path]:
    """The files that Ray will upload, asked of Ray itself."""
    from ray._private.runtime_env import packaging

    folder, sent = Path(submission.folder), list[Path]()
    excludes = list(submission.environment.get("excludes") or [])
    filters = [packaging._get_excludes(folder, excludes)] if excludes else []
    heed = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    packaging._dir_travel(folder, filters, sent.append, include_gitignore=heed, logger=quiet(f"{__name__}.packaging"))
    return {path for path in sent if path.is_file()}
