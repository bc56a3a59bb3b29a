"""One look at a job's models, before anything is paid for: what they are asked, learned and given room for.

Job -> findings. The rendering is done by `training.rendering`, in a process of its own.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import lai_ray
from lai_ray.cli.check import context, memory
from lai_ray.cli.check.context import Engine
from lai_ray.cli.check.names import BEFORE_ASKING
from lai_ray.common.chat_template import Example
from lai_ray.common.findings import Finding
from lai_ray.config.settings import InstructorSettings, TargetSettings
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Message
from lai_ray.stages.cost_forecast import example_prompt
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, RecordedPart, part, select
from lai_ray.storage import model_folders, models
from lai_ray.storage.store import is_url
from lai_ray.training import rendering
from lai_ray.training.rendering import Look

RENDERED = 100, 2000
"""Prompts of a part that are rendered, at least and at most: between them, one more than may fail."""
EXAMPLES = 20
"""Reference answers of a dataset that are learned for a try."""
SECONDS = 300


def findings(job: Job, *, fetch: bool = False, until: str | None = None) -> list[Finding]:
    """What is found at the target, and at an instructor in the cluster.

    fetch: copy models from an object store, as a run does; otherwise these are only mentioned.  until: a start that
    stops after this stage needs no more than the stages up to it.
    """
    config, roles = job.config, {}
    learns = bool(config.iterations) and until not in BEFORE_ASKING
    if config.target.engine == "vllm" or (config.target.engine == "recorded" and learns):
        roles["target"] = config.target.model
    if learns and config.instructor.in_cluster:
        roles["instructor"] = config.target.model if config.instructor.model == "target" else config.instructor.model
    found = []
    for role, name in roles.items():
        try:
            found += _at(_Asked(role, job, learns), name, fetch)
        except ConfigError as error:  # It is not there.
            found.append(Finding(str(error), refuses=role != "target" or config.target.engine != "recorded"))
    return found


@dataclass(frozen=True)
class _Asked:
    """A model's part in a job."""

    role: str
    """The table of the job with the model: target or instructor."""
    job: Job
    learns: bool

    @property
    def settings(self) -> TargetSettings | InstructorSettings:
        return self.job.config.target if self.role == "target" else self.job.config.instructor

    def engine(self, folder: str) -> Engine:
        """Of a model in a folder."""
        asked, gpu = self.settings, self.job.config.cluster.gpus_per_replica > 0
        return Engine(self.role, folder, asked.max_model_len, asked.dtype, asked.tensor_parallel, gpu)

    def look(self, model: str, *, own: int | None = None, vocabulary: int | None = None) -> Look:
        """At a model that reads `own` tokens and has so many rows in its embedding."""
        config, target, asked = self.job.config, self.role == "target", self.settings
        most = "max_new_tokens" if target else "max_tokens"
        return Look(
            role=self.role, model=model, parts=_prompts(self.job) if target else _requests(self.job),
            examples=_examples(self.job) if target and self.learns else [], objective=config.train.objective,
            max_length=min(config.train.max_length, own or sys.maxsize),
            context=asked.max_model_len or own, reads=own,
            answer_setting=f"{self.role}.{most}", answer_tokens=getattr(asked, most),
            vocabulary=vocabulary, max_failed_fraction=config.limits.max_failed_fraction,
        )  # fmt: skip


def _at(asked: _Asked, name: str, fetch: bool) -> list[Finding]:
    role = asked.role
    if is_url(name):
        if not fetch:
            return [Finding(f"{role}.model is in an object store: a run looks at it as it starts", refuses=False)]
        name = model_folders.local_path(name)
    try:
        folder = memory.folder_of(name, f"{role}.model")
    except DataError:  # On the hub: its tokenizer is fetched, its size is not known here.
        models.check_there(name, setting=f"{role}.model")
        return _rendered(asked.look(name))
    try:
        own, vocabulary = context.own_length(folder), context.read(folder).get("vocab_size")
    except DataError as error:
        return [Finding(f"{role}.model: {error}")]
    found = context.findings(asked.engine(folder))
    return found + _rendered(asked.look(folder, own=own, vocabulary=vocabulary))


def _prompts(job: Job) -> list[rendering.Part]:
    """Of each part that the target answers, the longest prompts."""
    parts: dict[str, Part] = {each.name: each for i in {0, job.config.iterations} for each in select(job, i)}
    asked = [each for each in parts.values() if not isinstance(each, RecordedPart)]
    total = {each.name: sum(1 for _ in each) for each in asked}
    least, most = RENDERED
    many = min(max(least, int(job.config.limits.max_failed_fraction * sum(total.values())) + 1), most)
    return [rendering.Part(each.name, total[each.name], _longest(each, many)) for each in asked]


def _longest(each: Part, many: int) -> list[list[Message]]:
    return heapq.nlargest(many, map(each.benchmark.prompt, each), key=_characters)


def _characters(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def _requests(job: Job) -> list[rendering.Part]:
    """A request of every strategy and dataset, as in the first iteration."""
    config = job.config
    pairs = itertools.product(range(config.iterations), config.evaluate.learn_from)
    shown = {f"{name}, strategy {config.schedule.name(i, name)}": example_prompt(job, name, 2, i) for i, name in pairs}
    return [rendering.Part(name, 1, [messages]) for name, messages in shown.items() if messages]


def _examples(job: Job) -> list[Example]:
    """Training problems with their reference answers, as samples are learned."""
    config, examples = job.config, []
    for name in config.evaluate.learn_from if config.iterations else ():
        benchmark = job.benchmark(name)
        for problem in itertools.islice(part(job, name, "train", config.evaluate.max_train_problems), EXAMPLES):
            text = benchmark.reference(problem) or problem.answer
            if text.strip():
                examples.append(Example(problem.id, benchmark.prompt(problem), [(text, 1.0)]))
    return examples


def _rendered(look: Look) -> list[Finding]:
    """What `training.rendering` finds, in a process of its own; where that breaks, a note that says so."""
    package = str(Path(lai_ray.__file__).parent.parent)
    paths = dict.fromkeys([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    broken = f"{look.role}.model: its prompts could not be rendered for a try"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lai_ray.training.rendering"], input=json.dumps(asdict(look)), env=environment,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding(f"{broken}: not done after {SECONDS} s", refuses=False)]
    try:
        return [Finding(**each) for each in json.loads(done.stdout.strip().splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding(f"{broken}: {last}", refuses=False)]


def refuse(found: list[Finding]) -> None:
    """Raises ConfigError with every finding that would make a run fail; none is nothing."""
    if refused := [each.text for each in found if each.refuses]:
        raise ConfigError("\n".join(refused) + "\nNothing was asked, and nothing is paid for.")
