"""Finds or submits the job of a run, follows its log, and returns its exit code.  Submission -> Ended

A run has one job at a time. A running one is followed; after one that has ended, the next takes the next number, since
Ray refuses a used id. Two commands that submit at once take the same number, and the refused one follows the other.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.distributed.jobs import client, upload
from lai_ray.distributed.jobs.submission import RUN, Submission, prefix
from lai_ray.errors import ConfigError, InterruptedRunError, StageError

Say = Callable[[str], None]

AGENT_SECONDS = 60.0
"""The dashboard of a new cluster answers before it can start a job."""
NOT_YET = "already exists|No available agent|RPC error"
"""Ray's errors for a used id, and when it is starting or busy."""
POLL_SECONDS = 2.0
LOG_BYTES_PER_SECOND = 1 << 20
"""Every poll reads the whole log; a long one is polled less often."""
LAST_READS = 15
"""Attempts to read the log of a job that has ended."""
LOST_SECONDS = 300.0
"""Without any answer of the cluster before it is given up."""
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
    """Ray's message, if the driver has no exit code."""


class _Retry(Exception):
    """Not now, or not under this id."""


class Server:
    """The job server behind one dashboard."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError as `client.connect`."""
        self.address = address
        self.client = client.connect(address)

    def begin(self, submission: Submission, say: Say) -> tuple[str, bool]:
        """The id of the run's job, and whether it was already running. Raises ConfigError when it cannot be sent."""
        upload.check(submission, say)
        end = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                with client.explained(self.address):
                    jobs = [job for job in self.client.list_jobs() if job.submission_id]
                    if live := next((job for job in jobs if _is_live(job, submission)), None):
                        _compare(live, submission, say)
                        return str(live.submission_id), True
                    job_id = next_id(submission.name, [str(job.submission_id) for job in jobs])
                    self._send(submission, job_id)
                    return job_id, False
            except (_Retry, OSError, RuntimeError) as error:
                # After a broken connection the job may have been accepted, and a busy server recovers.
                if time.monotonic() > end:
                    raise StageError(f"the Ray at {self.address} accepts no job: {_last_line(error)}") from error
            time.sleep(1)

    def _send(self, submission: Submission, job_id: str) -> None:
        """Raises _Retry for what another attempt may fix, ConfigError otherwise."""
        try:
            self.client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=job_id,
                runtime_env={**submission.environment, "working_dir": submission.folder},
                metadata=submission.metadata,
            )
        except (RuntimeError, ValueError) as error:
            if re.search(NOT_YET, str(error)):
                raise _Retry(str(error)) from error
            raise ConfigError(
                f"the Ray at {self.address} rejected the job: {_last_line(error)}\nThe upload is "
                f"{submission.folder}, without what .rayignore and .gitignore name."
            ) from error

    def follow(self, job_id: str, write: Callable[[str], None], say: Say) -> Ended:
        """Write the job's log from its beginning until it ends, also across lost connections.

        Raises InterruptedRunError on Ctrl-C, which does not stop the job; StageError when the cluster is lost.
        """
        printed, shown, last_reads = 0, "", 0
        try:
            while True:
                job = self._job(job_id, say)
                read = False
                with contextlib.suppress(OSError, RuntimeError):  # The next poll reads it again.
                    log = self.client.get_job_logs(job_id)
                    write(log[printed:])
                    printed, read = max(printed, len(log)), True
                if job.status.is_terminal():
                    last_reads += 1
                    if read or last_reads >= LAST_READS:
                        break
                    time.sleep(POLL_SECONDS)
                    continue
                if not printed and str(job.status) == "PENDING" and job.message and job.message != shown:
                    shown = job.message
                    say(f"{job_id} is pending: {job.message}")
                time.sleep(max(POLL_SECONDS, printed / LOG_BYTES_PER_SECOND))
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"\nno longer following {job_id}, which keeps running. The same command follows it again."
            ) from None
        status, failed = str(job.status), job.driver_exit_code or 1
        code = 0 if status == SUCCEEDED else 130 if status == STOPPED else failed if 0 < failed < 256 else 1
        why = "" if job.driver_exit_code is not None or status == SUCCEEDED else str(job.message or "")
        return Ended(job_id, status, code, why)

    def _job(self, job_id: str, say: Say) -> Any:
        """Ray's record of the job, retried for LOST_SECONDS while the cluster cannot be reached."""
        lost: float | None = None
        while True:
            try:
                with client.explained(self.address):
                    job = self.client.get_job_info(job_id)
                if lost is not None:
                    say(f"the Ray at {self.address} answers again")
                return job
            except (OSError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise StageError(
                        f"the Ray at {self.address} no longer knows {job_id}: its head was restarted, or the job was "
                        "deleted. What was paid for is in the run's folder, and the same command resumes it."
                    ) from error
                if lost is None:
                    lost = time.monotonic()
                    say(f"the Ray at {self.address} does not answer; retrying for {LOST_SECONDS / 60:.0f} minutes")
                elif time.monotonic() - lost > LOST_SECONDS:
                    raise StageError(
                        f"the Ray at {self.address} has not answered for {LOST_SECONDS / 60:.0f} minutes "
                        f"({_last_line(error)}). The job may still be running: the same command follows it again."
                    ) from error
            time.sleep(POLL_SECONDS)


def next_id(name: str, used: list[str]) -> str:
    """lai-NAME-3 after lai-NAME-2."""
    numbers = [re.fullmatch(rf"lai-{re.escape(name)}-(\d+)", other) for other in used]
    return f"lai-{name}-{max((int(match[1]) for match in numbers if match), default=0) + 1}"


def run(submission: Submission, address: str, *, wait: bool, write: Callable[[str], None], say: Say) -> Ended | str:
    """Follow the run's job, submitted now or before, to its end; or only its id, unless `wait`.

    write: for the job's log, in pieces.  say: for one line about it. Raises ConfigError, StageError and
    InterruptedRunError.
    """
    server = Server(address)
    job_id, was_running = server.begin(submission, say)
    ray_job = f"{prefix(address)}ray job"
    if not (Path(submission.folder) / "lai_ray").is_dir():
        say(f"lai_ray is not in {submission.folder}, so the one that is installed on the nodes will run")
    if was_running:
        say(f"{job_id} is already running this job; its log follows")
    else:
        say(f"equivalent command: {submission.line(address, job_id)}")
    say(f"Ctrl-C does not stop the job. To stop it: {ray_job} stop --address {address} {job_id}")
    if not wait:
        say(f"Its log: {ray_job} logs --address {address} --follow {job_id}, or this command without --no-wait")
        return job_id
    ended = server.follow(job_id, write, say)
    if ended.status != SUCCEEDED:
        verb = "was stopped" if ended.status == STOPPED else f"failed (exit code {ended.code})"
        kept = f"What was paid for is in {submission.run}, and the same command resumes it."
        say(f"{job_id} {verb}. {kept} {ended.why}".rstrip())
    return ended


def _is_live(job: Any, submission: Submission) -> bool:
    return (job.metadata or {}).get(RUN) == submission.run and not job.status.is_terminal()


def _compare(job: Any, submission: Submission, say: Say) -> None:
    """Say if the running job has another command."""
    if job.entrypoint != submission.entrypoint:
        say(
            f"note: {job.submission_id} was started as {job.entrypoint!r}; yours is {submission.entrypoint!r}. "
            "It does not apply to the running job: stop it, or wait, and give this command again."
        )


def _last_line(error: BaseException) -> str:
    """Of an error that includes the traceback of Ray's server."""
    lines = [line for line in str(error).splitlines() if line.strip(" .")] or [type(error).__name__]
    return lines[-1].strip().removesuffix(".")
