"""The tables of a job file, each setting with its one default. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lai_ray.common.plugins import code_hash, load, runs_in_cluster
from lai_ray.config.reaching import ReachingSettings
from lai_ray.config.rehearsal import RehearsalSettings
from lai_ray.config.values import Names, PerDataset, Positive, Replay, of_dataset


class Section(BaseModel):
    """A table of the job file: unknown keys are errors, and values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TargetSettings(Section):
    """The model that learns."""

    engine: str = "vllm"
    model: str
    """A folder, a hub name, or "module:NAME" of a string that is one."""
    attempts: dict[str, str | list[str]] = {}
    """With engine = "recorded": by dataset, the files (or a folder of them) that hold the first target's answers."""
    max_new_tokens: Positive = 1024
    max_model_len: Positive | None = None
    """Longest prompt plus answer, in tokens; None takes the model's own."""
    tensor_parallel: Positive = 1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class EvaluateSettings(Section):
    """Which problems the target answers."""

    learn_from: Names = []
    """Benchmarks whose training problems the target attempts and whose mistakes it learns from.

    At least one, unless iterations = 0."""
    learn_from_copies: bool = False
    """Whether training problems that are also in a test set (curate.keep_clear_of) are learned from."""
    report_on: Names = []
    """Benchmarks whose test split is reported. It may grow between two starts of a run."""
    imported: dict[str, str] = {}
    """Benchmarks that the two lists name by import: their own name, and the import. Set when the job is read."""
    max_train_problems: Positive | None = None
    """At most this many training problems of each benchmark, in a seeded order; None for all."""
    max_test_problems: Positive | None = None
    rules: Literal["default", "paper"] = "default"
    """How answers are graded: "paper" as the official release does, "default" with its defects mended."""
    count_cut_off: bool = False
    """Whether an answer cut off at the token limit counts as a mistake to learn from."""


OWN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
"""Names allowed for a user's benchmark: folders and files are named after it."""


class BenchmarkSettings(Section):
    """A user's own data: `[[benchmark]]`, once for each."""

    name: str = Field(pattern=OWN_NAME)
    kind: Literal["choice", "number", "label", "exact", "code"]
    train: str | None = None
    """A file of rows, or a folder saved by `datasets` (docs/benchmarks.md); with `hub`, the name of a split there."""
    dev: str | None = None
    test: str | None = None
    hub: str | None = None
    """A data set on the Hugging Face hub."""
    config: str | None = None
    """Its configuration on the hub."""
    question: str | list[str] = "question"
    """The column with the question, or the columns that make it: ["instruction", "input"]."""
    answer: str = "answer"
    """The column with the right answer."""
    choices: str | list[str] | None = None
    """kind = "choice": the column with a list of them, or the columns with one each."""
    answer_as: Literal["letter", "place", "place_from_1", "text"] | None = None
    """kind = "choice": how the answer names one; "place" counts from 0. None: read from each row, if unambiguous."""
    tests: str | list[str] | None = None
    """kind = "code": the column with the asserts; or several, run in this order: ["test_setup_code", "test_list"]."""
    labels: list[str] | None = None
    """kind = "label": the labels; those of the first file when left out."""
    subject: str | None = None
    """The column that scores are broken down by."""
    instruction: str | None = None
    """Text before each question."""
    domain: Literal["in", "out"] = "in"

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> BenchmarkSettings:
        if not (self.train or self.test):
            raise ValueError(f"benchmark {self.name} names no file: give train, test, or both")
        for kind, key in (("choice", "choices"), ("code", "tests")):
            if self.kind == kind and not getattr(self, key):
                raise ValueError(f'benchmark {self.name}: kind = "{kind}" needs `{key}`, the column with them')
        return self


class ScheduleSettings(Section):
    """Which strategy when: one name, one per iteration, or one per benchmark."""

    strategy: str | list[str] | dict[str, str] = "lec"

    def name(self, iteration: int, benchmark: str) -> str:
        """The strategy of one iteration and benchmark. The last name of a list holds for all later iterations."""
        if isinstance(self.strategy, dict):
            return self.strategy[benchmark]
        if isinstance(self.strategy, list):
            return self.strategy[min(iteration, len(self.strategy) - 1)]
        return self.strategy

    def names(self) -> list[str]:
        """Every strategy that the schedule mentions."""
        if isinstance(self.strategy, str):
            return [self.strategy]
        return list(self.strategy.values()) if isinstance(self.strategy, dict) else self.strategy


class ContrastSettings(Section):
    """What LEC shows beside a mistake."""

    neighbours: Positive = 3
    text: Literal["question", "question_and_options", "question_and_response"] = "question"
    """What is compared: the question (the paper's experiments), its options too, or the answer given (its eq. 2)."""
    within: Literal["dataset", "subject"] = "dataset"
    """Where neighbours are searched; "subject" keeps them to the mistake's own (§4.3 of the paper)."""
    show_answers: bool = False
    """Show the target's own correct response below each correct question: (d⁺, r⁺) as in eq. 2 of the paper, whose
    experiments show the questions alone."""
    encoder: str = "bert-base-uncased"
    """An encoder as a folder, hub name or "module:NAME"; "target" for the target of the iteration itself."""


class InstructorSettings(Section, ReachingSettings):
    """The model that writes the samples."""

    engine: str = "openai"
    """"openai" calls a server; "vllm" runs a model in the cluster: no key, no rate limit, no price by default."""
    model: str
    """The server's name for it. In the cluster: as target.model, or "target" for the target of the iteration itself."""
    max_model_len: Positive | None = None
    """In the cluster, as the next two: see the target's."""
    tensor_parallel: Positive = 1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    temperature: float = Field(0.8, ge=0, le=2)
    max_tokens: Positive = 4096
    prompts: dict[str, str] = {}
    """In a job file the folder with the job's own prompts, KIND.txt or KIND.DATASET.txt (`docs/prompts.md`), beside the
    file that names it. It is read with the job: each text under its name without ".txt"."""
    show_reference: bool = False
    """Show the instructor the reference answer of the question."""
    explain: bool = False
    """LE and LEC: the instructor first writes a line on the mistake; `lai show` and `lai export --annotate` show it."""
    format: Literal["text", "auto", "json"] = "text"
    """"text" asks for a numbered list, as the paper does. "auto" asks for JSON, and has a server enforce it as far as
    it can; "json" refuses a server that cannot."""
    reuse_across_seeds: bool = False
    """Share replies between runs of different seeds; the report states it."""

    @property
    def in_cluster(self) -> bool:
        """Whether its engine runs the model in the cluster."""
        return runs_in_cluster(self.engine)

    @model_validator(mode="before")
    @classmethod
    def _calls_in_the_cluster_are_free(cls, given: Any) -> Any:
        if not (isinstance(given, dict) and runs_in_cluster(str(given.get("engine", "openai")))):
            return given
        free = {f"usd_per_million_{way}": 0.0 for way in ("input", "output")}
        return free | {name: value for name, value in given.items() if name not in free or value is not None}

    @model_validator(mode="after")
    def _a_form_that_can_be_asked_for(self) -> InstructorSettings:
        if self.format != "text" and self.explain:
            raise ValueError(f'explain asks for a line before the samples: set format = "text", not {self.format!r}')
        if self.format == "json" and self.in_cluster:
            raise ValueError('format = "json" needs a server; format = "auto" asks a model in the cluster for JSON')
        return self

    @model_validator(mode="after")
    def _a_target_teaches_in_the_cluster(self) -> InstructorSettings:
        if self.model == "target" and not self.in_cluster:
            raise ValueError(
                'model = "target" lets the target teach itself, in the cluster: set engine = "vllm". With engine = '
                f"{self.engine!r}, give the server's name of the model"
            )
        return self


class CurateSettings(Section, RehearsalSettings):
    """What a sample must be to be learned from, and the rehearsal of the samples kept."""

    samples_per_dataset: PerDataset = 3000
    """At most this many of each dataset; a table sets a number for each, as in { gsm8k = 2000, mbpp = 500 }."""

    def most(self, dataset: str) -> int:
        """The limit of one dataset."""
        return of_dataset(self.samples_per_dataset, dataset)

    keep_clear_of: Literal["all", "none"] | list[str] = "all"
    """Evaluation sets (dev and test) that no sample may copy: all at hand, named ones, or none."""
    max_rouge_l: float | None = Field(None, gt=0, le=1)
    """Also drop samples whose ROUGE-L with an evaluation question is above this. Most independent word problems exceed
    0.7 somewhere, so it is off by default; the distribution is always reported."""
    solve_again: bool = False
    """A paid check: the instructor solves each new problem again, without its own answer, and must agree. One more call
    for each sample that passes the checks of its own reply; copies, repeats and samples over the cap are paid for."""
    near_duplicates: float | None = Field(None, gt=0, le=1)
    """Drop a sample whose ROUGE-L with an earlier sample is at least this; None drops equal questions only."""


class TrainSettings(Section):
    """Full-parameter fine-tuning."""

    learning_rate: float = Field(5e-6, gt=0, le=1)
    learning_rate_decay: float = Field(0.5, gt=0, le=1)
    """Factor per iteration: the paper lowers the starting rate each round."""
    epochs: Positive = 1
    sequences_per_step: Positive = 32
    """Sequences in one optimizer step, over all workers; accumulation is derived from it."""
    sequences_per_device: Positive = 1
    """Sequences in one forward pass of one worker, at most."""
    max_length: Positive = 1024
    """Tokens of prompt and response; what is longer is cut, counted, and keeps its EOS."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """At most a tenth of the steps."""
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    zero_stage: Literal[1, 2, 3] = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    offload: bool = False
    """Optimizer states, and the step itself, in the memory of the hosts: slower, and far less of the GPUs'."""
    replay: Replay = 0
    """The target's own right answers to this iteration's training problems, learned again beside the samples so that
    nothing is forgotten: a share up to 1.0, a count above 1, "all", or "gold" for all with the reference texts."""
    replay_weight: float = Field(1.0, gt=0, le=100)
    """The weight of what is replayed in the loss; that of a sample is 1."""
    thoughts: Literal["keep", "cut"] = "keep"
    """Thoughts ("<think>…</think>" and its like) in what is learned, as in the target's own answers (train.replay,
    curate.own_texts): "cut" learns the answers without them."""
    start_from: Literal["previous", "base"] = "previous"
    """The weights that each iteration trains: the last iteration's, or those the run started from."""
    data: Literal["iteration", "cumulative"] = "iteration"
    """The samples that are learned: this iteration's, or those of all iterations so far."""
    early_stopping: bool = False
    """Keep the weights of the epoch with the best mean score on the dev splits, the earliest of equals."""
    objective: str = "sft"
    """The training objective: a built-in name or "my_pkg.my_file:OBJECTIVE" (`docs/training.md`)."""

    def identity(self) -> dict[str, Any]:
        """What goes into a trained model's name. A setting added later counts only where it is used."""
        defaults = {"offload": False, "replay": 0, "replay_weight": 1.0, "start_from": "previous", "data": "iteration"}
        defaults |= {"objective": "sft", "early_stopping": False, "thoughts": "keep"}
        table = {name: value for name, value in self.model_dump().items() if (name, value) not in defaults.items()}
        if ":" in self.objective:  # The user's file counts by its content.
            table["objective"] = [self.objective, code_hash(load("training.objectives", self.objective))]
        return table


class SearchSettings(Section):
    """Ray Tune over the improve step of each iteration: every combination of the lists is a trial."""

    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] | None = None
    neighbours: Annotated[list[Positive], Field(min_length=1)] | None = None
    samples_per_dataset: Annotated[list[PerDataset], Field(min_length=1)] | None = None
    """Training-set sizes: each a number for every dataset, or a table with a number for each."""
    grid: dict[str, list[Any]] = {}
    """Values of other settings of the improve step, dotted: "train.epochs" = [1, 2], "schedule.strategy" = […]."""
    metric: str = "dev"
    """"dev" for the mean over the dev splits, or the name of one benchmark."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    """Each combination is trained with each of these seeds, counted from the job's own. Part of the run's identity, as
    the settings above; `max_concurrent` and `keep_weights` may change between starts."""
    max_concurrent: Positive | None = None
    """Trials at the same time; None: as many as the cluster holds, which is always the limit."""
    keep_weights: bool = False
    """Keep the weights of trials that did not win. They are removed as soon as another trial's score is higher."""

    @field_validator("learning_rate", "neighbours", "samples_per_dataset", mode="before")
    @classmethod
    def _left_out(cls, values: Any) -> Any:
        # A job file cannot have it (`job_file.parse`); records of earlier versions do, for a setting left out.
        return None if values == [] else values

    @field_validator("grid", mode="before")
    @classmethod
    def _dotted(cls, grid: Any) -> Any:
        """`train.epochs = [1, 2]` and `"train.epochs" = [1, 2]` are two ways to write one thing."""
        if not isinstance(grid, dict):
            return grid
        flat: dict[str, Any] = {}
        for key, value in grid.items():
            inner = value if isinstance(value, dict) else {"": value}
            named = {f"{key}.{name}".rstrip("."): values for name, values in inner.items()}
            if twice := sorted(set(named) & set(flat)):
                raise ValueError(f"{', '.join(twice)} is set twice, dotted and as a table; remove one")
            flat |= named
        return flat

    @model_validator(mode="after")
    def _something_to_search(self) -> SearchSettings:
        if not (self.learning_rate or self.neighbours or self.samples_per_dataset or self.grid):
            raise ValueError(
                "has nothing to try; give learning_rate, neighbours, samples_per_dataset or grid some values"
            )
        return self


class SandboxSettings(Section):
    """Where generated code runs."""

    min_tier: Literal["namespaces", "bubblewrap", "landlock", "rlimits"] = "namespaces"
    """The weakest isolation that will do; a machine that offers less is refused."""


class LimitSettings(Section):
    """What a run may use. These may change between two starts."""

    requests_per_minute: Positive = 500
    """Of the key, by all jobs together. The provider's headers apply where lower, or where the job sets no limit."""
    tokens_per_minute: Positive = 300_000
    max_in_flight: Positive = 64
    counted_tokens: Literal["used", "reserved"] = "used"
    """What the provider counts for a completed call: tokens used, or its prompt and instructor.max_tokens."""
    failed_calls_count: bool = True
    """Whether the provider counts calls that it refused or that failed."""
    max_calls: Positive | None = None
    """Instructor calls in the whole run, all iterations and search pools, possibly paid calls included."""
    max_tokens: Positive | None = None
    """Instructor tokens in the whole run, in and out; possibly paid calls count with the maximum they may have used."""
    max_usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    """US$ for the instructor in the whole run, at the job's prices; possibly paid calls count at their maximum."""
    unknown_price_is_free: bool = False
    """Accept max_usd where instructor.usd_per_million_… are not set: the calls then count as free."""
    max_failed_fraction: float = Field(0.05, ge=0, le=1)
    """Failed rows, and examples that a training has to leave out, above this fraction stop the stage."""


class ClusterSettings(Section):
    """Where the work runs. These may change between two starts."""

    address: str | None = None
    """A Ray cluster to join from one of its nodes ("auto", "HOST:6379"); None starts one, unless RAY_ADDRESS is set."""
    target_replicas: Positive = 1
    """Engine actors that share the target's questions."""
    gpus_per_replica: float = Field(1, ge=0)
    """0 for a CPU. Multiplied by target.tensor_parallel."""
    cpus_per_replica: float = Field(1, gt=0)
    train_workers: Positive = 1
    gpus_per_worker: float = Field(1, ge=0)
    cpus_per_worker: float = Field(1, gt=0)
    instructor_workers: Positive = 2
    instructor_replicas: Positive = 1
    """Engine actors of one in the cluster, each as large as the target's; instructor_workers call a server."""
    index_shards: Positive | None = None
    """FAISS actors that share the correct cases of one dataset; None: by their number and size."""
    keep_engines: bool = True
    """On CPUs, keep the processes of engines between generations: a new model starts without their imports."""
    train_state_every: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between two checkpoints, from which a training resumes when a worker, a node or the driver dies:
    12 to 16 bytes a parameter on the storage, twice that while a new one replaces the last. 0: none."""
    stall_seconds: float = Field(600, gt=0)
    """A stage without progress for so long fails, with what it was waiting for."""

    @model_validator(mode="after")
    def _whole_gpus_for_several_workers(self) -> ClusterSettings:
        if 0 < self.gpus_per_worker < 1 < self.train_workers:
            raise ValueError(
                f"gpus_per_worker = {self.gpus_per_worker:g} with train_workers = {self.train_workers}: workers that "
                "train together cannot share a GPU. Give each its own, or set one worker"
            )
        return self


class ReportSettings(Section):
    """How a report looks. These may change between two starts."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    sections: list[str] = []
    """Parts of your own after the built-in ones, as "my_pkg.my_file:SECTION" (lai_ray/report/sections.py)."""
