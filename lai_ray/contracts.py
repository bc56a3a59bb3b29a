"""What can be added, on one page: Benchmark, Strategy, Engine, Executor.

A plug-in is one file found by import. `benchmarks/gsm8k.py` is "gsm8k" because of its name and holds `BENCHMARK`;
"my_pkg.my_file:BENCHMARK" works wherever a name does. Nothing is registered: a Ray worker finds what the driver finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from lai_ray.common.chat_template import Example, Tokens
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


@dataclass(frozen=True)
class Model:
    """A target or encoder as engines and training see it: where its files are, and what it is."""

    path: str
    """A folder on a disk, a hub name, or a URL in an object store, which `storage.model_folders.local_path` fetches."""
    identity: str
    """Hash of what it is: weight files, hub commit, or the lineage of a trained one. Never a path."""


@dataclass(frozen=True)
class StrategySettings:
    """What a strategy may know of one iteration of one dataset."""

    iteration: int
    seed: int
    samples_per_request: int
    """n: how many samples one request asks for."""
    neighbours: int
    """k: how many correct questions LEC shows."""
    encoder: Model
    count_cut_off: bool
    show_reference: bool
    contrast_text: Literal["question", "question_and_options", "question_and_response"] = "question"
    contrast_within: Literal["dataset", "subject"] = "dataset"
    show_answers: bool = False
    """LEC shows the target's own right response below each correct question."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """The job's own prompts, as `instructor.prompts` has them; see `lai_ray.instructor.prompts.templates`."""
    explain: bool = False
    """LE and LEC have the instructor say first what the mistake is."""
    own: Any = None
    """The strategy's own settings, an instance of its `Settings`, from the job's table [strategy.NAME]."""


Improve = StrategySettings
"""Its name in earlier versions, which strategies of users' own may import."""


@dataclass(frozen=True)
class Grading:
    """How verdicts are reached."""

    rules: Literal["default", "paper"] = "default"
    """"paper": as the paper's official release grades, its defects kept; "default": those mended."""
    min_tier: str = "namespaces"
    """The weakest isolation level in which generated code may run; see `lai_ray.grading.sandbox.runner`."""


DEFAULT_GRADING = Grading()


class Benchmark(Protocol):
    """A set of questions that grades its own answers and can say what a new question of its kind must look like."""

    name: str
    splits: tuple[str, ...]
    """Which of "train", "dev", "test" it has. Without "train" it can be reported on, not learned from."""
    runs_code: bool
    """Whether a verdict runs generated code, so that grading is worth spreading over the cluster."""
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
        """The chat messages that put the problem to the target: in the test and in training alike."""

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The verdict. An empty or absurd response is unparsed, not an exception."""

    def reference(self, problem: Problem) -> str:
        """A response that earns 1.0."""

    def show(self, problem: Problem) -> str:
        """The question as an instructor sees it."""

    def brief(self) -> str:
        """What a new sample must look like, for the return format of an instructor's prompt."""

    def parse(self, reply: str) -> list[Piece]:
        """The samples in an instructor's reply, in order; what is no sample comes back rejected, with the reason."""

    def group(self, problem: Problem) -> str:
        """The subject, type or kind that scores are broken down by."""


class Strategy(Protocol):
    """A dialogue with the instructor, the target or a judge, without state: pure functions of the replies so far.

    `instruct` calls them with live replies, `curate` again with the recorded ones.
    `lai_ray.instructor.one_request` has the base class of strategies that ask once.
    """

    name: str
    uses_neighbours: bool
    """Whether its requests depend on k, so that a search over k needs a pool of replies for each."""
    any_verdict: bool
    """Whether its cases are all training problems, answered wrongly or not: then their number is known beforehand.
    Default: False."""
    Settings: type | None
    """Its own settings, a dataclass or pydantic model with a default for each: the job's table [strategy.NAME].
    Default: None, it has none."""

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """Whatever `cases` will have embedded, so that the encoder starts once for all datasets. Default: nothing."""

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """The evidence for one dataset. `attempts` is re-iterable and holds training attempts of that dataset only."""

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """The next request of a case's dialogue, given its replies so far (one draw, in turn order); None ends it.

        A reply that failed is among them, with `completion.error`. All requests of one turn go out together.
        """

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The samples of one finished dialogue, rejected pieces included (`dropped` says why)."""

    def accepts(self, sample: Sample, grade: Grade) -> str | None:
        """None to accept a sample whose own answer got this grade, else why not.
        Default: only what is graded fully right."""

    def choose(self, samples: Iterable[Sample], most: int, settings: StrategySettings) -> Iterable[Sample]:
        """Which samples of one dataset are learned from, at most so many, and in which order.

        samples: re-iterable, those that passed every check, in the seeded order of cases and draws. Default: the first.
        """


class Engine(Protocol):
    """Answers requests in one process. Lives inside an actor, is called from several threads; knows nothing of Ray.

    A target's, or an instructor's that runs in the cluster.
    """

    def check(self, settings: InstructorSettings) -> None:
        """Raises ConfigError before anything starts where an instructor's settings cannot work. Default: accepts."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in any order. A request that fails comes back with `completion.error`.

        A LaiError ends the stage. Anything else that is raised counts as the engine's death: another is started.
        """


@dataclass(frozen=True, slots=True)
class Answered:
    """A server handled the request; a refused or over-long one has `completion.error`."""

    completion: Completion
    free: bool = False
    """Refused before any work was done on it."""
    limits: Headers | None = None
    """What the reply's headers report of the provider's limits."""
    seconds: float | None = field(default=None, compare=False)
    """From when the request left for the provider, as in the others; None where it never did."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another attempt."""

    why: str
    after: float | None = None
    """Seconds that the provider asks to wait; None where it does not report any."""
    limited: bool = False
    """Refused for too many requests or tokens: no other caller should send meanwhile either."""
    reached: bool = True
    """False when no connection came about: nothing was sent, and nothing paid for."""
    free: bool = False
    """Refused with a status of 4xx. A 5xx, a timeout, a broken connection or half a reply may be paid for."""
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
    """Sends requests to a server, one attempt a call. Lives inside an actor, in one event loop.

    Made with (settings, base_url), the address being resolved or None.
    """

    def check(self, settings: InstructorSettings) -> None:
        """As an Engine's."""

    async def call(self, request: Request) -> Outcome:
        """One attempt, of at most `settings.timeout` seconds. Nothing that a provider does raises."""


@dataclass(frozen=True)
class Neighbours:
    """ids: (n_queries, k) int64, rows of the corpus.  distances: (n_queries, k) float32, squared L2, ascending."""

    ids: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class TrainJob:
    """Everything that decides a training: where from, on what, how, where to."""

    name: str
    """Hash of what decides it: a reused name can never resume another training."""
    model: Model
    examples: Sequence[Example]
    settings: TrainSettings
    learning_rate: float
    seed: int
    out: str
    """Folder (or URL) for the final weights, tokenizer and metrics; appears whole or not at all."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """What the model comes from, for lineage.json beside the weights."""


@dataclass(frozen=True)
class Trained:
    """What a training reports: the folder written and its final figures."""

    path: str
    metrics: dict[str, float]


Again = Callable[[Request], bool]
"""Whether a request that may have been paid for may be sent once more."""


class Executor(Protocol):
    """Where work happens. Stages ask for verbs and never for Ray; answers come back by key, in any order."""

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """The target's answers: sharded by Ray Data over engine actors."""

    def ask(
        self, requests: Iterable[Request | None], settings: InstructorSettings, limits: LimitSettings, again: Again
    ) -> Iterator[Answer]:
        """The instructor's answers: a rate-limited actor pool. Requests are drawn only as calls become free to send.

        None among the requests means: nothing more now, draw again when an answer came home. `again` is asked before
        a request that may have been paid for is sent once more; where it says no, the request comes back as failed.

        Where `settings.in_cluster`, `settings.model` is the place of an open model, and its engines answer as the
        target's do; whatever is drawn before None, or the end, goes through one lifetime of them.
        """

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """(n, dim) float32, masked mean over the last hidden state, L2-normalised, in the order of `texts`."""

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """Exact nearest neighbours over FAISS shards; ties by row."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`function` of each item, in order."""

    def train(self, job: TrainJob, progress: Callable[[int, int], None] | None = None) -> Trained:
        """Full-parameter fine-tuning: Ray Train and DeepSpeed. `progress` hears (steps done, steps)."""

    def search(
        self,
        trial: Callable[[dict[str, Any], Executor], dict[str, Any]],
        trials: Sequence[dict[str, Any]],
        folder: str,
        heard: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Ray Tune over picklable trials; one result a trial, with `error` where it failed.

        `heard` is called with a trial and its result as it ends.
        """

    def close(self) -> None:
        """Give back everything held."""


class Objective(Protocol):
    """What a training minimises: which tokens are targets, and the loss of each. Pure; torch is imported when used.

    The loop sums the losses of a step and divides by the number of its targets, over all workers.
    """

    def tokens(self, tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int) -> Tokens:
        """One example as ids and weights, at most `max_length` of each. A token with a weight other than 0 is a target.

        An example without targets is left out, and counted. Raises DataError for one that cannot be learned from.
        """

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss of each target of a forward pass, (targets,) float32, 0 targets included, its weight applied.

        logits: (targets, vocabulary) float32, those before each target.  labels: (targets,) int64, the targets' ids.
        weights: (targets,) float32, as `tokens` gave them.
        """
