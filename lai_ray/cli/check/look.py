"""One look at a job's models, before anything is paid for: what they are asked, learned and given room for.

Job -> findings. The rendering is done by `training.dry_run`, in a process of its own.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import lai_ray
from lai_ray.cli.check import context, memory
from lai_ray.cli.check.context import Engine
from lai_ray.common.chat_template import Example
from lai_ray.common.findings import Finding
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Message
from lai_ray.stages.cost_forecast import example_prompt
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, RecordedPart, part, select
from lai_ray.storage import model_folders, models
from lai_ray.storage.store import is_url
from lai_ray.training import dry_run
from lai_ray.training.dry_run import Look

RENDERED = 100, 2000
"""Prompts of a part that are rendered, at least and at most: between them, one more than may fail."""
EXAMPLES = 20
"""Reference answers of a dataset that are learned for a try."""
ENGINES = ("vllm", "recorded")
"""Engines whose target is a model's folder. What another one makes of a name, it alone knows."""
SECONDS = 300


def findings(job: Job, *, fetch: bool = False) -> list[Finding]:
    """What is found at the target, and at an instructor in the cluster.

    fetch: copy models from an object store, as a run does; otherwise these are only mentioned.
    """
    config, roles = job.config, {}
    if config.target.engine in ENGINES:
        roles["target"] = config.target.model
    if config.iterations and config.instructor.in_cluster:
        roles["instructor"] = config.target.model if config.instructor.model == "target" else config.instructor.model
    found = []
    for role, name in roles.items():
        try:
            found += _at(role, name, job, fetch)
        except ConfigError as error:  # It is not there.
            found.append(Finding(str(error)))
    return found


def _at(role: str, name: str, job: Job, fetch: bool) -> list[Finding]:
    if is_url(name):
        if not fetch:
            return [Finding(f"{role}.model is in an object store: a run looks at it as it starts", refuses=False)]
        name = model_folders.local_path(name)
    try:
        folder = memory.folder_of(name, f"{role}.model")
    except DataError:  # On the hub: its tokenizer is fetched, its size is not known here.
        models.check_there(name, setting=f"{role}.model")
        return _rendered(_look(role, name, job, own=None, vocabulary=None))
    try:
        own, vocabulary = context.own_length(folder), context.read(folder).get("vocab_size")
    except DataError as error:
        return [Finding(f"{role}.model: {error}")]
    found = context.findings(_engine(role, folder, job))
    return found + _rendered(_look(role, folder, job, own=own, vocabulary=vocabulary))


def _engine(role: str, folder: str, job: Job) -> Engine:
    asked = job.config.target if role == "target" else job.config.instructor
    gpu = job.config.cluster.gpus_per_replica > 0
    return Engine(role, folder, asked.max_model_len, asked.dtype, asked.tensor_parallel, gpu)


def _look(role: str, model: str, job: Job, *, own: int | None, vocabulary: int | None) -> Look:
    config, target = job.config, role == "target"
    asked, most = (config.target, "max_new_tokens") if target else (config.instructor, "max_tokens")
    return Look(
        role=role, model=model, parts=_prompts(job) if target else _requests(job),
        examples=_examples(job) if target else [], objective=config.train.objective,
        max_length=min(config.train.max_length, own or sys.maxsize),
        context=asked.max_model_len or own, reads=own,
        answer_setting=f"{role}.{most}", answer_tokens=getattr(asked, most),
        vocabulary=vocabulary, max_failed_fraction=config.limits.max_failed_fraction,
    )  # fmt: skip


def _prompts(job: Job) -> list[dry_run.Part]:
    """Of each part that the target answers, the longest prompts."""
    parts: dict[str, Part] = {each.name: each for i in {0, job.config.iterations} for each in select(job, i)}
    asked = [each for each in parts.values() if not isinstance(each, RecordedPart)]
    total = {each.name: sum(1 for _ in each) for each in asked}
    least, most = RENDERED
    many = min(max(least, int(job.config.limits.max_failed_fraction * sum(total.values())) + 1), most)
    return [dry_run.Part(each.name, total[each.name], _longest(each, many)) for each in asked]


def _longest(each: Part, many: int) -> list[list[Message]]:
    return heapq.nlargest(many, map(each.benchmark.prompt, each), key=_characters)


def _characters(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def _requests(job: Job) -> list[dry_run.Part]:
    """A request of every strategy and dataset, as in the first iteration."""
    config = job.config
    pairs = itertools.product(range(config.iterations), config.evaluate.learn_from)
    shown = {f"{name}, strategy {config.schedule.name(i, name)}": example_prompt(job, name, 2, i) for i, name in pairs}
    return [dry_run.Part(name, 1, [messages]) for name, messages in shown.items() if messages]


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
    """The findings of a dry run; one that says so where it could not be made."""
    package = str(Path(lai_ray.__file__).parent.parent)
    paths = dict.fromkeys([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(
        [sys.executable, "-m", "lai_ray.training.dry_run"], input=json.dumps(asdict(look)), env=environment,
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    try:
        return [Finding(**each) for each in json.loads(done.stdout.strip().splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding(f"{look.role}.model: its prompts could not be rendered for a try: {last}", refuses=False)]


def refuse(found: list[Finding]) -> None:
    """Raises ConfigError with every finding that would make a run fail; none is nothing."""
    if refused := [each.text for each in found if each.refuses]:
        raise ConfigError("\n".join(refused) + "\nNothing was asked, and nothing is paid for.")
