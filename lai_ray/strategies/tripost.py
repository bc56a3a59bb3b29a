"""TriPosT: the target attempts, feedback and improvements edit its attempts, and it learns to correct itself.

Each dialogue (arXiv 2310.13522, in section 2.2 of which each rule stands; docs/tripost.md says what differs):

    attempt, sampled     the target answers; once trained, it adds feedback and updated answers of its own
    feedback             on the first attempt whose own feedback is wrong: by the benchmark's script, or the instructor
    updated answer       by the same, until it is right; what was right before it is kept
    samples              one for each update, one that ends with the right answer, one with the reference

`choose` balances the three kinds. The weights of the loss are `train.objective = "self_correction"`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from lai_ray.common.self_correction import (
    ALL_RIGHT,
    FEEDBACK,
    RIGHT,
    UPDATED,
    Feedback,
    Trajectory,
    cleaned,
    read_feedback,
    split,
)
from lai_ray.contracts import Benchmark, Corrects, Executor, StrategySettings
from lai_ray.errors import StageError
from lai_ray.grading.answer_part import without_thoughts
from lai_ray.instructor import trajectories
from lai_ray.instructor.one_request import case_id
from lai_ray.instructor.prompts import corrections
from lai_ray.records import GENERATED, Ask, Attempt, Case, Completion, Grade, Problem, Reply, Sample, Turn

IMPROVEMENT, ENDING, GOLD = "improvement", "right", "gold"
"""Kinds of samples; the last part of a sample's id begins with its kind."""


@dataclass(frozen=True)
class Settings:
    """The table [strategy.tripost]."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Of the target's attempts."""
    feedback: Literal["auto", "instructor"] = "auto"
    """"auto": the benchmark's script where it has one; else the instructor."""
    improve_temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """Of the instructor's updated answers; its feedback is greedy."""
    max_updates: Annotated[int, Field(ge=1)] = 5
    continuations: Annotated[int, Field(ge=0)] = 2
    """How often a target that ends with an updated answer is asked to go on."""
    max_words: Annotated[int, Field(ge=1)] = 512
    """A longer attempt ends the dialogue without samples."""
    max_turns: Annotated[int, Field(ge=1)] = 8
    """Updates of one trajectory that are learned: the last ones."""
    ratio: float = 1.5
    """p of p : 1 : 1, improvements to right endings to references; -1 for all of each."""
    min_samples: Annotated[int, Field(ge=0)] = 0
    """Fewer samples after balancing stop the run."""
    wrong_attempt_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of a wrong attempt in the loss; 0 leaves it unlearned."""

    def __post_init__(self) -> None:
        if self.ratio != -1 and not 0 < self.ratio < 1e6:
            raise ValueError("ratio must be above 0, or -1 for no balancing")


@dataclass(frozen=True)
class Edited:
    """A trajectory as it is learned, or the reason that it is not."""

    attempts: list[str] = field(default_factory=list)
    feedbacks: list[str] = field(default_factory=list)
    """One for each attempt; the last says that all is right."""
    stalled: bool = False
    """Some update made no progress: only the first attempt and its feedback are learned."""
    dropped: str | None = None


Dialogue = Generator[Ask, Completion, Edited]
Judged = Generator[Ask, Completion, Feedback | None]


class _Ended(Exception):
    """Ends a dialogue without samples, with the reason."""


class TriPosT:
    """See the module."""

    name = "tripost"
    uses_neighbours = False
    any_verdict = True
    asks = True
    same_questions = True
    Settings = Settings

    def content(self, benchmark: Benchmark, own: Any) -> None:
        """It reads no files."""

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """Nothing is embedded."""
        return []

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every training problem, right or wrong in the evaluation: the attempts are new ones."""
        return (Case(case_id(attempt, self.name), self.name, attempt) for attempt in attempts)

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """The next request, to the target or the instructor."""
        state = _replayed(case, replies, benchmark, settings)
        return state if isinstance(state, Ask) else None

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The turns of a finished trajectory; a dropped sample with the reason where it teaches nothing."""
        edited = _replayed(case, replies, benchmark, settings)
        if isinstance(edited, Ask) or not replies:
            return []
        made = _Made(replies[-1], case.attempt.problem, _own(settings).wrong_attempt_weight)
        if edited.dropped is not None:
            dropped = made.sample("dropped", Turn(replies[0].completion.text))
            return [replace(dropped, dropped=edited.dropped)]
        gold = made.sample(GOLD, Turn(benchmark.reference(case.attempt.problem)), _commented(ALL_RIGHT))
        return [*made.turns(edited, _own(settings).max_turns), gold]

    def accepts(self, sample: Sample, grade: Grade) -> str | None:
        """All: the rules were applied to its attempts, and a text may end in feedback on a wrong one."""
        return None

    def choose(self, samples: Iterable[Sample], most: int, settings: StrategySettings) -> Iterable[Sample]:
        """p : 1 : 1 of improvements, right endings and references. Raises StageError for fewer than min_samples."""
        own, kinds = _own(settings), dict[str, list[Sample]]({IMPROVEMENT: [], ENDING: [], GOLD: []})
        for sample in samples:
            kinds[sample.id.rpartition("/")[2].partition(".")[0]].append(sample)
        endings = {str(sample.turns) for sample in kinds[ENDING]}
        # References that are no attempt's text first; endings are taken from the other end.
        kinds[GOLD].reverse()
        kinds[GOLD].sort(key=lambda sample: str(sample.turns) in endings)
        chosen = trajectories.balanced(kinds[IMPROVEMENT], kinds[ENDING], kinds[GOLD], own.ratio, most)
        if len(chosen) < own.min_samples:
            counts = ", ".join(f"{kind}: {len(some)}" for kind, some in kinds.items())
            raise StageError(
                f"tripost: {len(chosen)} samples after balancing ({counts}), fewer than strategy.tripost.min_samples = "
                f"{own.min_samples}. Learn from more problems, or lower it."
            )
        return chosen


@dataclass(frozen=True)
class _Made:
    """Makes the samples of one dialogue."""

    last: Reply
    problem: Problem
    wrong_weight: float

    def sample(self, kind: str, *turns: Turn) -> Sample:
        """A sample of the training problem itself."""
        name = f"{self.last.id}/{kind}"
        return Sample(name, self.last.id, replace(self.problem, id=name, split=GENERATED), list(turns))

    def turns(self, edited: Edited, most: int) -> Iterator[Sample]:
        """One sample for each of the last `most` updates, and one of the attempt that is right."""
        *wrong, right = edited.attempts
        if edited.stalled:
            yield self.sample(f"{IMPROVEMENT}.0", Turn(wrong[0], self.wrong_weight), _commented(edited.feedbacks[0]))
            return
        for i in range(max(0, len(wrong) - most), len(wrong)):
            update = _commented(edited.feedbacks[i], edited.attempts[i + 1])
            yield self.sample(f"{IMPROVEMENT}.{i}", Turn(wrong[i], self.wrong_weight), update)
        yield self.sample(ENDING, Turn(right), _commented(ALL_RIGHT))


def _commented(feedback: str, updated: str | None = None) -> Turn:
    return Turn(f"\n{FEEDBACK} {feedback}" + (f"\n{UPDATED}\n{updated}" if updated is not None else ""))


def _own(settings: StrategySettings) -> Settings:
    return settings.own or Settings()


def _replayed(
    case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
) -> Ask | Edited:  # fmt: skip
    """The dialogue after these replies: its next request, or its end."""
    dialogue = _Dialogue(case.attempt.problem, benchmark, _own(settings)).run()
    try:
        ask = next(dialogue)
        for reply in replies:
            ask = dialogue.send(reply.completion)
    except StopIteration as end:
        edited: Edited = end.value
        return edited
    except _Ended as end:
        return Edited(dropped=str(end))
    return ask


@dataclass(frozen=True)
class _Dialogue:
    """One trajectory: yields requests, is sent their completions, and returns what is learned of it."""

    problem: Problem
    benchmark: Benchmark
    own: Settings

    def run(self) -> Dialogue:
        """The whole dialogue."""
        trajectory = yield from self._attempted()
        attempts = [cleaned(attempt) for attempt in trajectory.attempts]
        if not all(attempts):
            raise _Ended("an attempt is empty")
        if any(len(attempt.split()) > self.own.max_words for attempt in attempts):
            raise _Ended("an attempt is too long")
        own = trajectory.feedbacks[: len(attempts) - 1]
        if self._right(attempts[-1]) and not any((read_feedback(text) or RIGHT).right for text in own):
            return Edited(attempts, [*own, ALL_RIGHT])
        point, teacher = yield from self._edit_point(attempts, trajectory.feedbacks)
        return (yield from self._improved(attempts[: point + 1], trajectory.feedbacks[:point], teacher))

    def _attempted(self) -> Generator[Ask, Completion, Trajectory]:
        """The target's own trajectory: it is asked to go on from its latest attempt alone."""
        prompt = self.benchmark.prompt(self.problem)
        completion = yield Ask("target", prompt, self.own.temperature)
        trajectory = split(_text(completion))
        for _ in range(self.own.continuations):
            if not trajectory.goes_on:
                break
            latest = {"role": "assistant", "content": f"{trajectory.attempts[-1]}\n{FEEDBACK}"}
            completion = yield Ask("target", [*prompt, latest], self.own.temperature)
            more = split(f"\n{FEEDBACK}{_text(completion)}")
            trajectory = Trajectory(
                [*trajectory.attempts, *more.attempts[1:]], [*trajectory.feedbacks, *more.feedbacks]
            )
        return trajectory

    def _right(self, attempt: str) -> bool:
        return trajectories.is_right(self.benchmark, self.problem, attempt)

    def _edit_point(
        self, attempts: list[str], feedbacks: list[str]
    ) -> Generator[Ask, Completion, tuple[int, Feedback]]:  # fmt: skip
        """The first attempt whose own feedback is to be replaced, and the right one. Later attempts get none.

        An attempt without own feedback counts as called right.
        """
        for point, attempt in enumerate(attempts):
            teacher = yield from self._feedback(attempt)
            own = read_feedback(feedbacks[point]) if point < len(feedbacks) else RIGHT
            if trajectories.disagree(own, teacher) or teacher.right or point == len(attempts) - 1:
                return point, teacher
        raise AssertionError("a trajectory has an attempt")

    def _feedback(self, attempt: str) -> Generator[Ask, Completion, Feedback]:
        """By the script, or greedily by the instructor; of a right attempt without either."""
        if self._right(attempt):
            return RIGHT
        feedback = None
        if self.own.feedback == "auto" and isinstance(self.benchmark, Corrects):
            feedback = self.benchmark.feedback(self.problem, attempt)
        else:
            request = corrections.feedback_request(self.benchmark.show(self.problem), attempt)
            feedback = corrections.read_reply(_text((yield Ask("instructor", request, 0.0))))
        if feedback is None or feedback.right:
            raise _Ended("the feedback on a wrong attempt cannot be read")
        return feedback

    def _improved(self, attempts: list[str], feedbacks: list[str], teacher: Feedback) -> Dialogue:
        """The trajectory up to its edit point, then updates until one is right."""
        given = [teacher]
        while not given[-1].right:
            if len(given) > self.own.max_updates:
                raise _Ended(f"not right after {self.own.max_updates} updates")
            updated = yield from self._update(attempts[-1], given[-1])
            if why := trajectories.refused(self.benchmark, self.problem, attempts[-1], given[-1], updated):
                raise _Ended(why)
            attempts = [*attempts, updated]
            given.append((yield from self._feedback(updated)))
        own = [read for text in feedbacks if (read := read_feedback(text))]
        return Edited(attempts, [*feedbacks, *map(str, given)], trajectories.stalls([*own, *given]))

    def _update(self, attempt: str, feedback: Feedback) -> Generator[Ask, Completion, str]:
        if self.own.feedback == "auto" and isinstance(self.benchmark, Corrects):
            return self.benchmark.improve(self.problem, attempt, feedback)
        question = self.benchmark.show(self.problem)
        request = corrections.improvement_request(question, attempt, feedback)
        return cleaned(_text((yield Ask("instructor", request, self.own.improve_temperature))))


def _text(completion: Completion) -> str:
    """The reply's text, without thoughts. Raises _Ended where the call failed or was cut off."""
    if completion.error is not None:
        raise _Ended("a call failed")
    if completion.finish_reason == "length":
        raise _Ended("a reply is cut off")
    return without_thoughts(completion.text) or ""


STRATEGY = TriPosT()
