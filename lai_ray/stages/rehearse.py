"""The target sits the new problems before it studies them.  samples -> the samples to study

    curate.rehearse = n

Its answers show how many new problems it solves already, and by the switches in `lai_ray.config.rehearsal` which
samples are studied and in whose words. The first answer to a problem is the one that a test would ask for.
attempts.jsonl has the answers, hints.jsonl those after a hint, solutions.jsonl the instructor's to keys in doubt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from lai_ray.common.plugins import code_hash
from lai_ray.config.config import Config
from lai_ray.config.rehearsal import RehearsalSettings
from lai_ray.contracts import Executor, Model
from lai_ray.errors import StageError
from lai_ray.records import Ask, Attempt, Completion, Message, Reply, Sample, Turn
from lai_ray.stages.calls import Call, Calls, Receivers, recording
from lai_ray.stages.curate import Samples
from lai_ray.stages.evaluate import Grader, grade_of
from lai_ray.stages.instruct import usage_of
from lai_ray.stages.job import Job
from lai_ray.stages.votes import MISCONCEPTION, UNCLEAR, WRONG, Counts, Votes, same_answer, votes
from lai_ray.storage.keys import key_of, number_of
from lai_ray.storage.run import Run, Stage
from lai_ray.storage.spool import Spool
from lai_ray.storage.store import View

SOLVED = "solved in rehearsal"
WRONG_KEY = "target and second solution agree on another answer"
TEMPERATURE = 1.0
"""Of every draw but the first."""
HINT = """\
{prompt}

A worked solution, for you to learn from:

{solution}

Now solve the problem in your own words, in the form asked for above, as if you had not seen this solution."""


def rehearse(stage: Stage, samples: Samples, target: Model, iteration: int, job: Job, executor: Executor) -> Samples:
    """Ask the target the new problems; returns the samples to study, in their order. Does nothing for rehearse = 0.

    Writes samples.jsonl, dropped.jsonl with the reasons, and rehearse.json with the counts by dataset. No sample may be
    left. Raises StageError past limits.max_failed_fraction, of answers or of answers that cannot be graded, and where
    the budget ends.
    """
    if not job.config.curate.rehearse:
        return samples
    asking = Asking(Receivers(job, target), iteration)
    key = asking.key(samples)
    if not stage.done(key):
        with recording(stage, rows=min(job.config.limits.max_in_flight, 500)) as recorded:
            calls = Calls(stage, asking.receivers, recorded, executor)
            rehearsal = Rehearsal(stage, samples.view, asking, calls, executor)
            rehearsal.carry_out()
            studied = rehearsal.write()
        if job.config.curate.check_keys:
            stage.store.put_json("usage.json", usage_of(rehearsal.solutions(), recorded, job))
        stage.finish(key, studied=studied, **calls.seconds)
    stage.check_until()
    return Samples(stage.view("samples.jsonl", Sample), key, stage.facts()["studied"])


def stage_studied(config: Config) -> str:
    """The name of the stage whose samples are studied."""
    return "rehearse" if config.curate.rehearse else "curate"


def samples_studied(run: Run, folder: str, config: Config) -> Samples:
    """The samples to study, for reading. folder: of a finished iteration, or of a pool of a search."""
    stage = Stage(run, f"{folder}/{stage_studied(config)}")
    counts: dict[str, int] = stage.facts()["studied" if config.curate.rehearse else "kept"]
    return Samples(stage.view("samples.jsonl", Sample), "", counts)


@dataclass(frozen=True)
class Asking:
    """What is asked about a sample, and of whom: the same calls at every start."""

    receivers: Receivers
    iteration: int

    @property
    def job(self) -> Job:
        """The job."""
        return self.receivers.job

    def key(self, samples: Samples) -> str:
        """Hash of what decides the rehearsal. The instructor's settings are in the samples' key."""
        config = self.job.config
        settings = config.curate.model_dump(include=set(RehearsalSettings.model_fields))
        asked = config.target.max_new_tokens, config.target.max_model_len, config.seed
        benchmarks = (self.job.benchmark(name) for name in config.evaluate.learn_from)
        code = code_hash("lai_ray.stages.votes", *benchmarks)
        return key_of(samples.key, self.receivers.target.identity, settings, asked, HINT, self.job.grading, code)

    def prompt(self, sample: Sample) -> list[Message]:
        """The benchmark's, as in a test, also for a sample that is studied under another."""
        return self.job.benchmark(sample.problem.benchmark).prompt(sample.problem)

    def draws(self, sample: Sample) -> list[Call]:
        """The target's draws."""
        prompt, config = self.prompt(sample), self.job.config
        return [
            self.receivers.call(
                Ask("target", prompt, TEMPERATURE if draw else 0.0),
                id=f"{sample.id}#{draw}",
                seed=number_of(config.seed, self.iteration, sample.id, draw),
            )
            for draw in range(config.curate.rehearse)
        ]

    def hinted(self, sample: Sample) -> list[Call]:
        """Another try, greedy, with the instructor's solution in the prompt."""
        *before, last = self.prompt(sample)
        solution = "".join(turn.text for turn in sample.turns)
        shown = last | {"content": HINT.format(prompt=last["content"], solution=solution)}
        return [self.receivers.call(Ask("target", [*before, shown]), id=f"{sample.id}#hint", seed=0)]

    def solution(self, sample: Sample) -> list[Call]:
        """A second solution by the instructor, which does not see its first."""
        config = self.job.config
        run_seed = None if config.instructor.reuse_across_seeds else config.seed
        seed = number_of(run_seed, self.iteration, sample.id, "second solution")
        return [self.receivers.call(Ask("instructor", self.prompt(sample)), id=f"{sample.id}#solution", seed=seed)]


CallsOf = Callable[[Sample], list[Call]]


@dataclass
class Rehearsal:
    """One rehearsal: its calls, and what becomes of each sample. Ids and verdicts are in memory, texts are not."""

    stage: Stage
    samples: View[Sample]
    asking: Asking
    calls: Calls
    executor: Executor
    votes: dict[str, Votes] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """By id of a sample in doubt, what the second solution says of its key: WRONG, MISCONCEPTION or UNCLEAR."""
    after_hint: set[str] = field(default_factory=set)
    """Ids of samples that the target solves after a hint."""

    def carry_out(self) -> None:
        """Ask the draws; then, by the switches, the instructor about keys in doubt, and the target with a hint."""
        settings = self.asking.job.config.curate
        self._ask("new problems", lambda: self.samples, self.asking.draws)
        attempts = self.stage.write("attempts.jsonl", self._graded(self.samples, self.asking.draws), Attempt)
        self._refuse_ungraded(attempts)
        for name, draws in itertools.groupby(attempts, key=lambda attempt: attempt.id.rpartition("#")[0]):
            self.votes[name] = votes(list(draws))
        if settings.check_keys:
            self._ask("keys in doubt", self.in_doubt, self.asking.solution)
            self.stage.write("solutions.jsonl", self.solutions(), Reply)
            self.keys = {sample.id: self._key_verdict(sample) for sample in self.in_doubt()}
        if settings.hint:
            self._ask("with a hint", self.without_text, self.asking.hinted)
            hints = self.stage.write("hints.jsonl", self._graded(self.without_text(), self.asking.hinted), Attempt)
            self.after_hint = {a.id.rpartition("#")[0] for a in hints if a.right and not a.cut_off}

    def in_doubt(self) -> Iterator[Sample]:
        """The samples of which a clear majority of the draws gives another answer than the key."""
        return (sample for sample in self.samples if self.votes[sample.id].against is not None)

    def without_text(self) -> Iterator[Sample]:
        """The samples that may be studied in the target's own words, of which it has none yet."""
        return (sample for sample in self.samples if self._may_replace(sample) and self.votes[sample.id].own is None)

    def solutions(self) -> Iterator[Reply]:
        """The instructor's solutions of problems whose key is in doubt."""
        for sample in self.in_doubt() if self.asking.job.config.curate.check_keys else ():
            (call,) = self.asking.solution(sample)
            completion = self._completion(call)
            yield Reply(call.request.id, sample.id, 0, 0, call.request.messages, completion)

    def decided(self) -> Iterator[Sample]:
        """Every sample in order: dropped with a reason, in the target's own words, or as it was."""
        settings = self.asking.job.config.curate
        for sample in self.samples:
            if self.keys.get(sample.id) == WRONG:
                yield replace(sample, dropped=WRONG_KEY, note=f"{self.votes[sample.id].against}")
            elif settings.drop_solved and self.votes[sample.id].solved:
                yield replace(sample, dropped=SOLVED)
            elif (call := self._own(sample)) is not None:
                note = f"in the target's own words: {call.request.id}"
                yield replace(sample, turns=[Turn(self._completion(call).text)], note=note)
            else:
                yield sample

    def write(self) -> dict[str, int]:
        """Write the samples to study, those dropped, and the counts; returns how many are studied, by dataset."""
        decided = Spool(self.decided(), Sample)
        self.stage.write("samples.jsonl", (sample for sample in decided if not sample.dropped), Sample)
        self.stage.write("dropped.jsonl", (sample for sample in decided if sample.dropped), Sample)
        config, counts = self.asking.job.config, self._counts(decided)
        tables = {name: count.table() for name, count in counts.items()}
        self.stage.store.put_json("rehearse.json", {"draws": config.curate.rehearse, "datasets": tables})
        for name, count in counts.items():
            for line in count.lines():
                self.stage.progress.report(f"  {name}: {line}")
        return {name: counts[name].studied if name in counts else 0 for name in config.evaluate.learn_from}

    def _counts(self, decided: Iterable[Sample]) -> dict[str, Counts]:
        job, counts = self.asking.job, dict[str, Counts]()
        for sample in decided:
            name, own = sample.problem.benchmark, not sample.dropped and self._own(sample) is not None
            count = counts.setdefault(name, Counts(job.config.schedule.name(self.asking.iteration, name)))
            count.add(self.votes[sample.id], job.benchmark(name).group(sample.problem), sample.dropped)
            count.own_texts += own
            count.after_hint += own and self.votes[sample.id].own is None
            count.keys.update([self.keys[sample.id]] if sample.id in self.keys else [])
        return counts

    def _ask(self, what: str, samples: Callable[[], Iterable[Sample]], calls_of: CallsOf) -> None:
        """Ask what is not answered yet. samples: those that it is about, again at each pass."""

        def pending() -> Iterator[Call]:
            calls = (call for sample in samples() for call in calls_of(sample))
            return (call for call in calls if self.calls.recorded.get(call) is None)

        self.calls.ask(f"{self.stage.folder}: {what}", pending)

    def _graded(self, samples: Iterable[Sample], calls_of: CallsOf) -> Iterator[Attempt]:
        """The target's answers to these samples' problems with their verdicts, in order."""
        job = self.asking.job
        for name, group in itertools.groupby(samples, key=lambda sample: sample.problem.benchmark):
            benchmark = job.benchmark(name)
            spread = self.executor.map if benchmark.runs_code else map
            answered = (
                (sample.problem, call.request, self._completion(call)) for sample in group for call in calls_of(sample)
            )
            yield from (attempt for attempt, _ in spread(Grader(benchmark, job.grading), answered))

    def _completion(self, call: Call) -> Completion:
        completion = self.calls.recorded.get(call)
        assert completion is not None, f"{call.request.id} was asked before"
        return completion

    def _refuse_ungraded(self, attempts: Iterable[Attempt]) -> None:
        total, ungraded = 0, list[Attempt]()
        for attempt in attempts:
            total += 1
            if attempt.grade.status == "error" and attempt.completion.error is None:
                ungraded.append(attempt)
        limit = self.asking.job.config.limits.max_failed_fraction
        if len(ungraded) > limit * total:
            raise StageError(
                f"{self.stage.folder}: {len(ungraded)} of {total} answers to new problems could not be graded, more "
                f"than limits.max_failed_fraction = {limit:g} allows. The first: {ungraded[0].id}: "
                f"{ungraded[0].grade.note}. All answers are kept; fix the cause or raise the limit, and start the same "
                "command again. Where a benchmark cannot grade new problems, set curate.rehearse = 0."
            )

    def _own(self, sample: Sample) -> Call | None:
        """The target's own right answer that replaces a sample's text; None where it keeps the instructor's.

        A sample with a prompt of its own keeps its text, which answers that prompt.
        """
        if not self._may_replace(sample):
            return None
        if (draw := self.votes[sample.id].own) is not None:
            return self.asking.draws(sample)[draw]
        return self.asking.hinted(sample)[0] if sample.id in self.after_hint else None

    def _may_replace(self, sample: Sample) -> bool:
        own_texts = self.asking.job.config.curate.own_texts
        return own_texts and sample.messages is None and self.keys.get(sample.id) != WRONG

    def _key_verdict(self, sample: Sample) -> str:
        """What the instructor's second solution says of a key in doubt; without a clear one the sample is kept."""
        (call,) = self.asking.solution(sample)
        completion, against = self._completion(call), self.votes[sample.id].against
        if completion.error is not None:
            return UNCLEAR
        benchmark = self.asking.job.benchmark(sample.problem.benchmark)
        grade = grade_of(benchmark, sample.problem, completion.text, self.asking.job.grading)
        if grade.score >= 1:
            return MISCONCEPTION
        return WRONG if grade.status == "graded" and same_answer(grade.answer, against) else UNCLEAR
