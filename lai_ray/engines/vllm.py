"""vLLM in this process, on GPUs or a CPU.  requests -> answers

`generate` may be called from several threads at once: their requests share one engine, so that it is never idle between
two batches, and a long answer does not delay other callers. The only file that imports vllm.

On a CPU: no engine process is spawned (this halves the start-up time), eager mode, float32 unless the job sets a dtype
(processors without bfloat16 arithmetic are slower with it, and a trained float32 checkpoint runs unconverted).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from lai_ray.common import chat_template
from lai_ray.config.settings import InstructorSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import canaries, models

CPU_CACHE_GIB = 1.0
"""Upper limit of the key-value cache on a CPU, unless VLLM_CPU_KVCACHE_SPACE is set."""
CPU_SEQUENCES = 256
"""Sequences decoded concurrently on a CPU."""


def check(settings: InstructorSettings) -> None:
    """Raises ConfigError for an instructor's folder without chat template. For a hub model the engine raises later."""
    path = models.locate(settings.model, setting="instructor.model")
    if models.is_local(path) and not models.has_chat_template(path):
        raise ConfigError(
            f"instructor.model: {path} has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), so it cannot be asked in messages. Name an instruction-tuned model, or add its "
            "template to the folder."
        )


class VllmEngine:
    """One vLLM engine that answers with `model`."""

    check = staticmethod(check)

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        """gpus: the number assigned to this process; 0 runs on the CPU.

        Raises DataError for a model without tokenizer, ConfigError with vLLM's reason for one that it cannot load.
        Prints "engine ready: <identity>".
        """
        began = time.monotonic()
        _environment(gpus)
        with _collector_off():
            importlib.import_module("vllm.v1.engine.llm_engine")
            gc.freeze()  # Imports stay for good; what is built now does not, and `close` looks through nothing else.
            self._tokenizer = chat_template.load_tokenizer(model.path)
            self._stops = further_stops(self._tokenizer, model.path)
            self._engine = _proven(model, settings, gpus)
        self._bad_request = _bad_request()
        self._lock = threading.Lock()  # A tokenizer is not thread-safe.
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._count = 0
        self._thread = threading.Thread(target=self._serve, name="vllm-steps", daemon=True)
        self._thread.start()
        print(f"engine ready: {model.identity} in {time.monotonic() - began:.1f} s", flush=True)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in their order; a request that the chat template or the engine refuses (too long)
        has `completion.error`.

        Raises DataError for a model whose template takes no prompt, and the engine's error when it fails; it is then
        unusable.
        """
        with self._lock:
            prompts, refused = rendered(self._tokenizer, requests)
        batch = _Batch(requests, prompts)
        for i, error in refused.items():
            batch.put(i, Completion("", "error", error=str(error)))
        self._inbox.put(batch)
        return batch.answered.result()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._inbox.put(None)
        self._thread.join()
        _shut_down(self._engine)
        del self._engine
        gc.collect()
        # glibc keeps what other threads freed: 120 MB for each swap of a small model.
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)

    def _serve(self) -> None:
        """Add new requests, step, return finished answers; block while there is nothing to do."""
        waiting: dict[str, tuple[_Batch, int]] = {}
        try:
            while self._add_requests(waiting):
                for output in self._engine.step():
                    if output.finished:
                        batch, i = waiting.pop(output.request_id)
                        batch.put(i, _completion(output))
        except BaseException as error:
            self._fail(waiting, error)

    def _add_requests(self, waiting: dict[str, tuple[_Batch, int]]) -> bool:
        """Move everything from the inbox to the engine; block while the engine is idle. False to stop."""
        while not (waiting and self._inbox.empty()):
            batch = self._inbox.get()
            if batch is None:
                return False
            for i, (request, prompt) in enumerate(zip(batch.requests, batch.prompts, strict=True)):
                if prompt is None:
                    continue
                self._count += 1
                name = str(self._count)
                waiting[name] = (batch, i)
                try:
                    self._engine.add_request(name, {"prompt_token_ids": prompt}, _sampling(request, self._stops))
                except self._bad_request as error:
                    del waiting[name]
                    batch.put(i, _refused(error, len(prompt)))
        return True

    def _fail(self, waiting: dict[str, tuple[_Batch, int]], error: BaseException) -> None:
        """The engine has failed: raise its error in every waiting and every later call."""
        for batch in {id(batch): batch for batch, _ in waiting.values()}.values():
            batch.answered.set_exception(error)
        while (late := self._inbox.get()) is not None:
            late.answered.set_exception(error)


def rendered(tokenizer: Any, requests: Sequence[Request]) -> tuple[list[list[int] | None], dict[int, DataError]]:
    """The tokens of each prompt, and by place the errors of those that the template refuses.

    Raises DataError where it refuses any prompt, as of a model without template.
    """
    try:
        return list(chat_template.render_all(tokenizer, [request.messages for request in requests])), {}
    except DataError:
        pass
    prompts: list[list[int] | None] = [None] * len(requests)
    refused = {}
    for i, request in enumerate(requests):
        try:
            prompts[i] = chat_template.render(tokenizer, request.messages)
        except DataError as error:
            refused[i] = error
    if len(refused) == len(requests):
        chat_template.render(tokenizer, [{"role": "user", "content": "How many?"}])  # Raises where it takes nothing.
    return prompts, refused


def further_stops(tokenizer: Any, model: str) -> list[int]:
    """The end of a turn as training learns it, where the model's own files do not name it among its stop tokens."""
    try:
        end = chat_template.end_of_turn(tokenizer)
    except DataError:  # It cannot be trained, and stops where its files say.
        return []
    return [] if end in chat_template.stop_tokens(tokenizer, model) else [end]


class _Batch:
    """The requests of one call, which returns once all of them are answered."""

    def __init__(self, requests: Sequence[Request], prompts: Sequence[list[int] | None]) -> None:
        self.requests, self.prompts = requests, prompts
        self.answered: Future[list[Answer]] = Future()
        self._answers: dict[int, Answer] = {}
        if not requests:
            self.answered.set_result([])

    def put(self, i: int, completion: Completion) -> None:
        """Called only by the thread that steps the engine."""
        self._answers[i] = Answer(self.requests[i].id, self.requests[i].key, completion)
        if len(self._answers) == len(self.requests):
            self.answered.set_result([self._answers[j] for j in range(len(self.requests))])


ENGINE = VllmEngine


def _environment(gpus: float) -> None:
    """Set the variables that vLLM reads on import, except those that the user has set."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not gpus:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def _proven(model: Model, settings: TargetSettings, gpus: float) -> Any:
    """An engine that was seen to hold the model's weights, where its training left something to see it by.

    Built again, once, where it does not; then DataError.
    """
    known = canaries.read(model.path)
    for _ in range(2):
        engine = _engine(model, settings, gpus)
        known = [canary for canary in known if len(canary.ids) < engine.vllm_config.model_config.max_model_len]
        fault = canaries.fault(known, functools.partial(_log_probabilities, engine))
        if fault is None:
            return engine
        print(f"engine refused: {fault}", flush=True)
        _shut_down(engine)
        del engine
        gc.collect()
    raise DataError(
        f"{model.path}: the engine does not answer with the weights of this training: {fault}. It was built twice. "
        f"Weights that were changed on purpose want {canaries.FILE} removed; others want this training repeated."
    )


def _log_probabilities(engine: Any, sequences: list[list[int]]) -> list[list[float]]:
    """Of each sequence's tokens but the first, as the engine computes them for a prompt."""
    from vllm import SamplingParams

    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=_final_only())
    for i, ids in enumerate(sequences):
        engine.add_request(f"canary-{i}", {"prompt_token_ids": ids}, asked)
    found: dict[str, list[float]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            rows = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
            found[output.request_id] = [row[token].logprob for token, row in rows if row]
    return [found[f"canary-{i}"] for i in range(len(sequences))]


def _shut_down(engine: Any) -> None:
    shutdown = getattr(engine.engine_core, "shutdown", None)
    if shutdown is not None:
        shutdown()


def _engine(model: Model, settings: TargetSettings, gpus: float) -> Any:
    # Not vllm.LLM: that wrapper generates one list at a time, and its import loads an HTTP server.
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments: dict[str, Any] = {
        "model": model.path,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "tensor_parallel_size": settings.tensor_parallel,
        "disable_log_stats": True,
    }
    if settings.tensor_parallel > 1:
        # vLLM's Ray executor would request GPUs from Ray that this actor already holds.
        arguments["distributed_executor_backend"] = "mp"
    if not gpus:
        # No chunked prefill: after a chunk vLLM rewinds a seeded request's generator, which CPU generators cannot.
        arguments |= {"enforce_eager": True, "max_num_seqs": CPU_SEQUENCES, "enable_chunked_prefill": False}
        if settings.dtype == "auto":
            arguments["dtype"] = "float32"
        _inspect_in_process()
    try:
        config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        if not gpus and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            config.cache_config.kv_cache_memory_bytes = _cache_bytes(config)
        return LLMEngine.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)
    except ValueError as error:
        raise ConfigError(not_loaded(model, error)) from error


def not_loaded(model: Model, error: ValueError) -> str:
    """vLLM's own reason, and the setting where it is the context."""
    why = " ".join(str(error).split())
    cure = " Here that is target.max_model_len (instructor.max_model_len for an instructor in the cluster)."
    return f"vLLM cannot load {model.path}: {why}" + cure * ("max_model_len" in why or "max seq len" in why)


def _inspect_in_process() -> None:
    """Inspect a model's class in this process: vLLM starts another (once per machine, 13 s) to leave CUDA untouched."""
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda function: function()


def _cache_bytes(config: Any) -> int:
    """Bytes of the key-value cache on a CPU: all sequences at full length, at most CPU_CACHE_GIB."""
    model, parallel = config.model_config, config.parallel_config
    per_token = 2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    wanted = (CPU_SEQUENCES + 1) * (model.max_model_len + config.cache_config.block_size) * per_token
    return int(min(wanted * model.dtype.itemsize, CPU_CACHE_GIB * 2**30))


def _sampling(request: Request, stops: list[int]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        seed=request.seed,
        stop_token_ids=stops,
        output_kind=_final_only(),
    )


def _bad_request() -> tuple[type[Exception], ...]:
    """The exceptions of vLLM for a faulty request; others are failures of the engine."""
    from vllm import exceptions

    return (ValueError, TypeError, getattr(exceptions, "VLLMClientError", ValueError))


def _final_only() -> Any:
    # One output per request, when it is finished: the partial text is not needed.
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def _completion(output: Any) -> Completion:
    best = output.outputs[0]
    return Completion(
        text=best.text,
        finish_reason=best.finish_reason or "unknown",
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(best.token_ids),
    )


def _refused(error: Exception, prompt_tokens: int) -> Completion:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Completion("", "error", prompt_tokens=prompt_tokens, error=f"the engine refused the request: {why}")


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection while a million objects are created: the start takes a fifth less time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
