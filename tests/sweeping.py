"""`lai run` with the executor of tests/local.py in place of Ray; the keys of its requests are appended to asked.jsonl.

    python -m tests.sweeping run JOB key=value… [--until STAGE] [--reuse RUN]…

LAI_TEST_BREAKS names a run that fails at its training, or at the verb in LAI_TEST_BREAKS_AT.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from lai_ray.cli import run
from lai_ray.cli.main import app
from tests.local import LocalExecutor


def main() -> None:
    """The command line, with that executor."""
    whole = run.run_job
    executor = LocalExecutor()

    def run_job(config, **how):  # type: ignore[no-untyped-def]
        if config.name == os.environ.get("LAI_TEST_BREAKS"):
            executor.die_after[os.environ.get("LAI_TEST_BREAKS_AT", "train")] = 0
        try:
            return whole(config, executor=executor, **how)
        finally:
            asked = {verb: [r.key for r in requests] for verb, requests in executor.requests.items()}
            line = {"run": config.name, "until": how["until"], **asked}
            with (Path(config.storage) / "asked.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")

    run.run_job = run_job
    app()


if __name__ == "__main__":
    main()
