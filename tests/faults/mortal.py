"""`lai`, but the process kills itself (SIGKILL) once it is in the middle of the stage that MORTAL names."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lai_ray.distributed.executor import RayExecutor
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Stage

WHERE = os.environ.get("MORTAL", "")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_answers(folder: str, count: int) -> None:
    """Die when so many answers were recorded below `folder`."""
    record = Answers.record

    def counted(self: Answers, answer: Any) -> None:
        record(self, answer)
        if folder in self.store.where and len(self) >= count:
            time.sleep(2 * self.seconds)  # long enough for a segment to be closed: some answers are recorded for good
            die()

    Answers.record = counted  # type: ignore[method-assign]


def when_written(name: str) -> None:
    """Die as soon as a stage has written the file `name`, before its marker."""
    write = Stage.write

    def last_act(self: Stage, file: str, *rest: Any) -> Any:
        done = write(self, file, *rest)
        if file == name:
            die()
        return done

    Stage.write = last_act  # type: ignore[method-assign]


def once_training() -> None:
    """Die when rank 0 has written a step's figures."""
    train = RayExecutor.train

    def watched(self: RayExecutor, job: Any, *rest: Any) -> Any:
        folder = Path(job.out).parent

        def watch() -> None:
            while not any(path.stat().st_size for path in folder.rglob("metrics.jsonl")):
                time.sleep(0.05)
            die()

        threading.Thread(target=watch, daemon=True).start()
        return train(self, job, *rest)

    RayExecutor.train = watched  # type: ignore[method-assign]


DEATHS = {
    "evaluate": lambda: after_answers("/evaluate/", 200),
    "diagnose": lambda: when_written("cases.jsonl"),
    "instruct": lambda: after_answers("/instruct/", 12),
    "curate": lambda: when_written("samples.jsonl"),
    "train": once_training,
}

if __name__ == "__main__":
    if WHERE:
        DEATHS[WHERE]()
    from lai_ray.cli.main import main

    main()
