"""The interfaces of what can be added: Benchmark, Strategy, Engine, Objective, Executor.

A plug-in is one file found by import. `benchmarks/gsm8k.py` is named "gsm8k" and holds `BENCHMARK`;
"my_pkg.my_file:BENCHMARK" works wherever a name does. Nothing is registered: a Ray worker finds what the driver finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from lai_ray.common.chat_template import Example, Tokens
from lai_ray.common.self_correction import Feedback
from lai_ray.records import (
    Answer,
    Ask,
    Attempt,
    Case,
    Completion,
    Grade,
    Message,
    Piece,
    Problem,
    Reply,
    Request,
    Sample,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from lai_ray.config.settings import InstructorSettings, LimitSettings, TrainSettings
    from lai_ray.instructor.rate_limit.headers import Headers
    from lai_ray.instructor.structure import Structure


@dataclass(frozen=True)
class Model:
    """A target, encoder or open instructor: where its files are, and what it is."""

    path: str
    """A folder on a disk, a hub name, or a URL in an object store, which `storage.model_folders.local_path` fetches."""
    identity: str
    """Hash of its weight files, hub commit or lineage. Never a path."""


@dataclass(frozen=True)
class StrategySettings:
    """What a strategy gets for one iteration of one dataset."""

    iteration: int
    seed: int
    samples_per_request: int
    """n: samples wanted per request."""
    neighbours: int
    """k: correct questions that LEC shows."""
    encoder: Model
    count_cut_off: bool
    show_reference: bool
    contrast_text: Literal["question", "question_and_options", "question_and_response"] = "question"
    contrast_within: Literal["dataset", "subject"] = "dataset"
    show_answers: bool = False
    """LEC shows the target's own response below each correct question."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """The job's own prompts, as `instructor.prompts` has them; see `lai_ray.instructor.prompts.templates`."""
    explain: bool = False
    """LE and LEC ask the instructor to name the mistake first."""
    own: Any = None
    """The strategy's own settings: an instance of its `Settings`, from the job's table [strategy.NAME]."""


Improve = StrategySettings
"""The former name, for users' strategies that import it."""


@dataclass(frozen=True)
class Grading:
    """How verdicts are reached."""

    rules: Literal["default", "paper"] = "default"
    """"paper": as the paper's official release grades, defects included; "default": with the defects fixed."""
    min_tier: str = "namespaces"
    """The weakest isolation level in which generated code may run; see `lai_ray.grading.sandbox.runner`."""


DEFAULT_GRADING = Grading()


class Benchmark(Protocol):
    """A set of questions that grades its own answers and describes what a new question must look like."""

    name: str
    splits: tuple[str, ...]
    """Those of "train", "dev", "test" that it has. Without "train" it can be reported on but not learned from."""
    runs_code: bool
    """Whether grading runs generated code and is spread over the cluster."""
    domain: str
    """"in" for the test of something learned from, "out" for a test of its transfer."""
    source: str | None
    """A hub name or local folder that `load` reads, which a job's [data] table replaces: a benchmark that has one is a
    frozen dataclass with this field. None, the default, where the problems are made by code."""

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The upstream records of one split, in a fixed order. Raises ConfigError for a split it does not have."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One upstream record as a Problem with the stable id "<name>/<split>/<row, five digits>"."""

    def prompt(self, problem: Problem) -> list[Message]:
        """The chat messages that ask the target this problem, in evaluation and in training."""

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The verdict. An empty or absurd response is unparsed; it never raises.

        response: by default rules without its thoughts ("<think>…</think>" and its like); one that is an unclosed
        thought is unparsed and not passed on.
        """

    def reference(self, problem: Problem) -> str:
        """A response that is graded 1.0."""

    def show(self, problem: Problem) -> str:
        """The question as an instructor sees it."""

    def brief(self) -> str:
        """What a new sample must look like, for the return format of an instructor's prompt."""

    def structure(self) -> Structure | None:
        """How new samples are asked for in JSON (`instructor.format`), which `parse` must read too. None, the default,
        where they are asked for as text only."""

    def parse(self, reply: str) -> list[Piece]:
        """The samples in an instructor's reply, in order; what is no sample is a rejected piece with the reason.

        reply: without its thoughts.
        """

    def group(self, problem: Problem) -> str:
        """The subject, type or kind by which scores are broken down."""


@runtime_checkable
class Corrects(Protocol):
    """A benchmark with a script that corrects attempts, instead of an instructor (`benchmark_kinds.worked_steps`)."""

    def feedback(self, problem: Problem, attempt: str) -> Feedback | None:
        """The first wrong step of an attempt; None where it cannot be read."""

    def improve(self, problem: Problem, attempt: str, feedback: Feedback) -> str:
        """The attempt with the steps before the wrong one unchanged, and that one put right."""


class Strategy(Protocol):
    """A dialogue with the instructor, the target or a judge. Stateless: pure functions of the replies so far.

    `instruct` calls them with live replies, `curate` again with the recorded ones.
    `lai_ray.instructor.one_request` has the base class of strategies that ask once.
    """

    name: str
    uses_neighbours: bool
    """Whether its requests depend on k: a search over k then needs a pool of replies for each."""
    any_verdict: bool
    """Whether its cases are all training problems, right or wrong: their number is then known in advance.
    Default: False."""
    asks: bool
    """Whether its dialogues have requests. Without, each case is taken once, and no instructor is needed.
    Default: True."""
    same_questions: bool
    """Whether its samples answer the training problems themselves: duplicates are equal in prompt, turns and kind (the
    last part of the id, up to a full stop), within an iteration; else in the question. Default: False."""
    Settings: type | None
    """The type of its own settings (the table [strategy.NAME]): a dataclass or pydantic model in which each setting has
    a default. Default: None."""

    def content(self, benchmark: Benchmark, own: Any) -> str | None:
        """Hash of the files from which it takes the samples of a dataset. Called before anything starts.

        own: its own settings, of which `files` then does not count. Raises ConfigError, DataError for files that cannot
        be used, with file and row. Default: None, it has no files.
        """

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """The texts that `cases` will embed, so that the encoder starts once for all datasets. Default: none."""

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """The evidence for one dataset. attempts: re-iterable, the training attempts of that dataset."""

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """The next request of a case's dialogue, given its replies so far (one draw, in turn order); None ends it.

        Failed replies are included, with `completion.error`. All requests of one turn are sent together.
        """

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The samples of one finished dialogue, including rejected pieces, with the reason in `dropped`."""

    def accepts(self, sample: Sample, grade: Grade) -> str | None:
        """None to accept a sample whose own answer got this grade, else the reason to drop it.
        Default: accepts what is graded fully right."""

    def choose(self, samples: Iterable[Sample], most: int, settings: StrategySettings) -> Iterable[Sample]:
        """The samples of one dataset to learn from, in order, at most `most`.

        samples: re-iterable, those that passed every check, in the seeded order of cases and draws. Default: the first.
        """


class Engine(Protocol):
    """Runs a model in the cluster: a target, or an open instructor. Lives inside an actor and is called from several
    threads, but does not use Ray itself.
    """

    def check(self, settings: InstructorSettings) -> None:
        """Raises ConfigError, before anything starts, for instructor settings that cannot work. Default: none."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in any order. A request that fails gets one with `completion.error`.

        A LaiError ends the stage. Any other exception counts as the engine's death: another is started.
        """

    def close(self) -> None:
        """Free its memory, as the process builds another engine. Where it has no such method, it is only dropped."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A server handled the request; a refused or over-long one has `completion.error`."""

    completion: Completion
    free: bool = False
    """Refused before any work was done on it."""
    limits: Headers | None = None
    """The provider's limits, from the reply's headers."""
    seconds: float | None = field(default=None, compare=False)
    """Since the request was sent, here and below; None where it was not."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another attempt."""

    why: str
    after: float | None = None
    """Seconds that the provider asks to wait; None where it does not."""
    limited: bool = False
    """Refused for too many requests or tokens: no other caller should send meanwhile either."""
    reached: bool = True
    """False when no connection was made: nothing was sent or paid for."""
    free: bool = False
    """Refused, with an error and no tokens counted. A timeout, a broken connection or half a reply may be paid for."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Refused for these parameters: the names to send them under instead, "" to leave one out. The next attempts, of
    every request, are made so, and this one counts for none."""
    limits: Headers | None = None
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Fatal:
    """No request can succeed before the user has changed something: the provider's message, and what to do."""

    message: str
    free: bool = False
    seconds: float | None = field(default=None, compare=False)


Outcome: TypeAlias = Answered | Retry | Fatal


class ApiEngine(Protocol):
    """Sends requests to a server, one attempt per call. Lives inside an actor, in one event loop.

    Made with (settings, base_url), the resolved address or None.
    """

    def check(self, settings: InstructorSettings) -> None:
        """As in Engine."""

    async def call(self, request: Request) -> Outcome:
        """One attempt, of at most `settings.timeout` seconds. Never raises for what a provider does."""


@dataclass(frozen=True)
class Neighbours:
    """ids: (n_queries, k) int64, rows of the corpus.  distances: (n_queries, k) float32, squared L2, ascending."""

    ids: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class TrainJob:
    """Everything that determines a training."""

    name: str
    """Hash of all that determines it, so that it never resumes another training."""
    model: Model
    examples: Sequence[Example]
    settings: TrainSettings
    learning_rate: float
    seed: int
    out: str
    """Folder or URL for the final weights, tokenizer and metrics; appears complete or not at all."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """What the model is made from, for lineage.json beside the weights."""
    epoch_names: Sequence[str] = ()
    """Names of the models after the first epochs, for their lineage.json: each is kept beside `out`, where
    `training.recipe.epoch_folder` has it. Empty keeps none. `name` is that of the last."""
    max_failed_fraction: float = 0.0
    """Examples that may be left out because the model's chat template refuses them, of all."""


@dataclass(frozen=True)
class Trained:
    """The result of a training: the folder written and the final metrics."""

    path: str
    metrics: dict[str, float]


Again = Callable[[Request], bool]
"""Whether a request that may have been paid for may be sent once more."""


class Executor(Protocol):
    """Runs the work of the stages, which never use Ray themselves. Answers have keys and come in any order."""

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """The target's answers, from engine actors behind Ray Data."""

    def ask(
        self, requests: Iterable[Request | None], settings: InstructorSettings, limits: LimitSettings, again: Again
    ) -> Iterator[Answer]:
        """The instructor's answers, from a rate-limited actor pool. Requests are drawn only as they can be sent.

        None among the requests means that no more are available until one in flight is answered. `again` is called
        before a possibly paid request is sent once more; if it returns False, the request is answered as failed.

        Where `settings.in_cluster`, `settings.model` is the path of an open model whose engines answer as the target's
        do; requests up to None, or the end, are answered in one engine lifetime.
        """

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """(n, dim) float32, masked mean over the last hidden state, L2-normalised, in the order of `texts`."""

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """Exact nearest neighbours over FAISS shards; ties by row."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`function` of each item, in order."""

    def expect_training(self) -> None:
        """A training of the target probably follows: what takes long to start may start now. May do nothing."""

    def train(self, job: TrainJob, progress: Callable[[int, int], None] | None = None) -> Trained:
        """Full-parameter fine-tuning by Ray Train and DeepSpeed. `progress` is called with (steps done, steps)."""

    def search(
        self,
        trial: Callable[[dict[str, Any], Executor], dict[str, Any]],
        trials: Sequence[dict[str, Any]],
        folder: str,
        on_result: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Runs picklable trials by Ray Tune; one result per trial, with `error` where it failed.

        `on_result` is called with the settings and the result of each trial as it ends.
        """

    def close(self) -> None:
        """Release everything held."""


class Objective(Protocol):
    """What a training minimises: which tokens are targets, and the loss of each. Pure; imports torch only when used.

    The loop sums the losses of a step and divides by the number of its targets, over all workers.
    """

    def tokens(self, tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int) -> Tokens:
        """One example as ids and weights, at most `max_length` of each. A token with a weight other than 0 is a target.

        An example without targets is skipped and counted. Raises DataError for one that cannot be learned from.
        """

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss of each target of a forward pass, (targets,) float32, 0 targets included, its weight applied.

        logits: (targets, vocabulary) float32, those before each target.  labels: (targets,) int64, the targets' ids.
        weights: (targets,) float32, as `tokens` gave them.
        """
