"""Ray's job server: find the job of a run or submit it, follow its log, say how it ended.  Submission -> Ended

A run has one job at a time. One that is at work is followed; after one that has ended the next takes the next number,
for Ray refuses a used id. Two that submit at once take the same number, and the one that is refused follows the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.distributed.jobs import client as job_client
from lai_ray.distributed.jobs import upload
from lai_ray.distributed.jobs.submission import RUN, Submission, prefix
from lai_ray.errors import ConfigError, InterruptedRunError, StageError

Say = Callable[[str], None]

AGENT_SECONDS = 60.0
"""The dashboard of a young cluster answers before it can start a job."""
NOT_YET = "already exists|No available agent|RPC error"
"""What Ray says of a used id, and when it is young or busy."""
SILENCE = 30.0
"""Seconds without a line after which a log's connection is taken for dead; whether the job lives is asked elsewhere."""
RETRY = 2.0
"""Seconds between two looks at a job."""
PATIENCE = 300.0
"""Seconds without any answer of the cluster after which nobody waits for it any more."""
SUCCEEDED, STOPPED = "SUCCEEDED", "STOPPED"


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    id: str
    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    code: int
    """For the shell: 0, the driver's own when it failed (2: the job is wrong; 1: the run), 130 when it was stopped."""
    why: str
    """In Ray's words, where the driver had none."""


class _Again(Exception):
    """Not now, or not under this id."""


class Server:
    """The job server behind one dashboard."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError when nobody answers, it is not Ray, or it will not have us."""
        self.address = address
        self.client = job_client.client(address)

    def begin(self, submission: Submission, say: Say) -> tuple[str, bool]:
        """The id of the run's job, and whether it was at work already. Raises ConfigError when it cannot be sent."""
        upload.check(submission, say)
        end = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                with job_client.understood(self.address):
                    jobs = [job for job in self.client.list_jobs() if job.submission_id]
                    live = next((job for job in jobs if _is_of(job, submission) and not job.status.is_terminal()), None)
                    if live is not None:
                        _compare(live, submission, say)
                        return str(live.submission_id), True
                    job_id = next_id(submission.name, [str(job.submission_id) for job in jobs])
                    self._send(submission, job_id)
                    return job_id, False
            except (_Again, OSError, RuntimeError) as error:
                # Where the connection broke, it may have been taken, and a server that is busy is so for a while.
                if time.monotonic() > end:
                    raise StageError(f"the Ray at {self.address} takes no job: {_last_line(error)}") from error
            time.sleep(1)

    def _send(self, submission: Submission, job_id: str) -> None:
        """Raises _Again where another look may help, ConfigError where it would not."""
        try:
            self.client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=job_id,
                runtime_env={**submission.environment, "working_dir": submission.folder},
                metadata=submission.metadata,
            )
        except (RuntimeError, ValueError) as error:
            if re.search(NOT_YET, str(error)):
                raise _Again(str(error)) from error
            raise ConfigError(
                f"the Ray at {self.address} did not take the job: {_last_line(error)}\nWhat is sent is "
                f"{submission.folder}, less what .rayignore and .gitignore name there."
            ) from error

    def follow(self, job_id: str, write: Callable[[str], None], say: Say) -> Ended:
        """Write the job's log from its beginning until it ends, whatever becomes of the connection.

        Raises InterruptedRunError on Ctrl-C, which leaves the job alone; StageError when the cluster is gone.
        """
        log = _Log(self.client, job_id, write)
        try:
            while True:
                with contextlib.suppress(Exception):  # Whatever ended it, the job's own state says what comes next.
                    asyncio.run(log.read())
                job = self._look(job_id, say)
                with contextlib.suppress(Exception):
                    log.rest()
                if job.status.is_terminal():
                    break
                if log.printed == 0 and job.message and str(job.status) == "PENDING":
                    say(f"{job_id} waits: {job.message}")
                time.sleep(RETRY)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"\nno longer following {job_id}, which goes on. The same command comes back to it."
            ) from None
        status, failed = str(job.status), job.driver_exit_code or 1
        code = 0 if status == SUCCEEDED else 130 if status == STOPPED else failed if 0 < failed < 256 else 1
        why = "" if job.driver_exit_code is not None or status == SUCCEEDED else str(job.message or "")
        return Ended(job_id, status, code, why)

    def _look(self, job_id: str, say: Say) -> Any:
        """The job as the cluster knows it, asked again and again while the cluster cannot be reached."""
        lost: float | None = None
        while True:
            try:
                with job_client.understood(self.address):
                    job = self.client.get_job_info(job_id)
                if lost is not None:
                    say(f"the Ray at {self.address} answers again")
                return job
            except (OSError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise StageError(
                        f"the Ray at {self.address} does not know {job_id} any more: its head was started anew, or the "
                        "job was deleted. What was paid for is in the run's folder, and the same command goes on."
                    ) from error
                if lost is None:
                    lost = time.monotonic()
                    say(f"the Ray at {self.address} does not answer; trying for {PATIENCE / 60:.0f} minutes")
                elif time.monotonic() - lost > PATIENCE:
                    raise StageError(
                        f"the Ray at {self.address} has not answered for {PATIENCE / 60:.0f} minutes "
                        f"({_last_line(error)}). The job may go on without us: the same command looks again."
                    ) from error
            time.sleep(RETRY)


class _Log:
    """One job's log, read again from its beginning by every connection, written once."""

    def __init__(self, client: Any, job_id: str, write: Callable[[str], None]) -> None:
        self.client, self.job_id, self.write = client, job_id, write
        self.printed = 0

    async def read(self) -> None:
        """Until the connection ends, or nothing has come for a while."""
        seen = 0
        stream = self.client.tail_job_logs(self.job_id)
        try:
            while True:
                text = await asyncio.wait_for(anext(stream), SILENCE)
                self._write(text, seen)
                seen += len(text)
        except (StopAsyncIteration, TimeoutError):
            pass
        finally:
            await stream.aclose()

    def rest(self) -> None:
        """What no connection brought: its end, or all of it where a proxy lets no web socket through."""
        self._write(self.client.get_job_logs(self.job_id), 0)

    def _write(self, text: str, start: int) -> None:
        fresh = text[max(0, self.printed - start) :]
        if fresh:
            self.write(fresh)
            self.printed = max(self.printed, start + len(text))


def next_id(name: str, used: list[str]) -> str:
    """lai-NAME-3 when lai-NAME-2 is the last so far."""
    found = [re.fullmatch(rf"lai-{re.escape(name)}-(\d+)", other) for other in used]
    return f"lai-{name}-{max((int(match[1]) for match in found if match), default=0) + 1}"


def run(submission: Submission, address: str, *, wait: bool, write: Callable[[str], None], say: Say) -> Ended | str:
    """Follow the run's job, submitted now or before, to its end; or only its id, unless `wait`.

    write: the job's own log, as it comes.  say: one line about it. Raises ConfigError, StageError, InterruptedRunError.
    """
    server = Server(address)
    job_id, was_running = server.begin(submission, say)
    ray_job = f"{prefix(address)}ray job"
    if not (Path(submission.folder) / "lai_ray").is_dir():
        say(f"lai_ray is not in {submission.folder}, so the one that is installed on the nodes will run")
    if was_running:
        say(f"{job_id} is at work on this run already; this is its log")
    else:
        say(f"the same by hand: {submission.line(address, job_id)}")
    say(f"Ctrl-C leaves it at work. To stop it: {ray_job} stop --address {address} {job_id}")
    if not wait:
        say(f"Its log: {ray_job} logs --address {address} --follow {job_id}, or this command without --no-wait")
        return job_id
    ended = server.follow(job_id, write, say)
    if ended.status != SUCCEEDED:
        verb = "was stopped" if ended.status == STOPPED else f"failed (exit code {ended.code})"
        kept = f"What was paid for is in {submission.run}, and the same command goes on from there."
        say(f"{job_id} {verb}. {kept} {ended.why}".rstrip())
    return ended


def _is_of(job: Any, submission: Submission) -> bool:
    return bool((job.metadata or {}).get(RUN) == submission.run)


def _compare(job: Any, submission: Submission, say: Say) -> None:
    """Say when the job at work was asked for something else."""
    if job.entrypoint != submission.entrypoint:
        say(
            f"note: {job.submission_id} was started as {job.entrypoint!r}, and you ask for {submission.entrypoint!r}. "
            "That counts only when it has ended: stop it, or wait, and give this command again."
        )


def _last_line(error: BaseException) -> str:
    """Ray sends the traceback of its server along."""
    lines = [line for line in str(error).splitlines() if line.strip(" .")] or [type(error).__name__]
    return lines[-1].strip().removesuffix(".")
