"""vLLM in this process, on a GPU or a CPU.  requests -> answers

`generate` may be called from several threads at once: all their requests share one engine, so that it never runs dry
between two batches and a long answer holds up nobody else's. The only file that imports vllm.

On a CPU: no engine process is spawned (that halves the start), eager, float32 unless the job names a dtype (processors
without bfloat16 arithmetic are slower with it, and a trained float32 checkpoint is then run as it is).
"""

from __future__ import annotations

import contextlib
import gc
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
from lai_ray.errors import ConfigError
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import models

CPU_CACHE_GIB = 1.0
"""At most so much memory for keys and values on a CPU, unless VLLM_CPU_KVCACHE_SPACE says otherwise."""
CPU_SEQUENCES = 256
"""Sequences decoded at once on a CPU."""


def check(settings: InstructorSettings) -> None:
    """Raises ConfigError for an instructor whose folder has no chat template. Of a hub model its engine will say so."""
    place = models.locate(settings.model, setting="instructor.model")
    if models.is_local(place) and not models.has_chat_template(place):
        raise ConfigError(
            f"instructor.model: {place} has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), so it cannot be asked in messages. Name an instruction-tuned model, or put its "
            "template there."
        )


class VllmEngine:
    """One vLLM engine that answers with `model`."""

    check = staticmethod(check)

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        """gpus: how many this process was given; 0 runs on the CPU. Raises DataError for a model without tokenizer.

        Prints "engine ready: <identity>" when it is.
        """
        began = time.monotonic()
        _environment(gpus)
        with _collector_off():
            self._tokenizer = chat_template.load_tokenizer(model.path)
            self._engine = _engine(model, settings, gpus)
        self._bad_request = _bad_request()
        self._lock = threading.Lock()  # A tokenizer is not made for several threads.
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._count = 0
        self._thread = threading.Thread(target=self._serve, name="vllm-steps", daemon=True)
        self._thread.start()
        print(f"engine ready: {model.identity} in {time.monotonic() - began:.1f} s", flush=True)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order. What the engine refuses (a prompt too long) has `completion.error`.

        Raises whatever broke the engine itself: then nothing more can be asked of it; DataError for a model without
        chat template.
        """
        with self._lock:
            prompts = chat_template.render_all(self._tokenizer, [request.messages for request in requests])
        batch = _Batch(requests, prompts)
        self._inbox.put(batch)
        return batch.answered.result()

    def close(self) -> None:
        """Stop stepping and give the memory back."""
        self._inbox.put(None)
        self._thread.join()
        shutdown = getattr(self._engine.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()
        del self._engine
        gc.unfreeze()
        gc.collect()

    def _serve(self) -> None:
        """Add what has come, step, hand out what is finished; sleep when there is nothing to do."""
        waiting: dict[str, tuple[_Batch, int]] = {}
        try:
            while self._take_in(waiting):
                for output in self._engine.step():
                    if output.finished:
                        batch, i = waiting.pop(output.request_id)
                        batch.put(i, _completion(output))
        except BaseException as error:
            self._refuse(waiting, error)

    def _take_in(self, waiting: dict[str, tuple[_Batch, int]]) -> bool:
        """Everything in the inbox, into the engine; waits for something when the engine is idle. False to stop."""
        while not (waiting and self._inbox.empty()):
            batch = self._inbox.get()
            if batch is None:
                return False
            for i, (request, prompt) in enumerate(zip(batch.requests, batch.prompts, strict=True)):
                self._count += 1
                name = str(self._count)
                waiting[name] = (batch, i)
                try:
                    self._engine.add_request(name, {"prompt_token_ids": prompt}, _sampling(request))
                except self._bad_request as error:
                    del waiting[name]
                    batch.put(i, _refused(error, len(prompt)))
        return True

    def _refuse(self, waiting: dict[str, tuple[_Batch, int]], error: BaseException) -> None:
        """The engine is broken: whoever waits, and whoever asks from now on, is told."""
        for batch in {id(batch): batch for batch, _ in waiting.values()}.values():
            batch.answered.set_exception(error)
        while (late := self._inbox.get()) is not None:
            late.answered.set_exception(error)


class _Batch:
    """The requests of one call, which is woken once, with the last of their answers."""

    def __init__(self, requests: Sequence[Request], prompts: list[list[int]]) -> None:
        self.requests, self.prompts = requests, prompts
        self.answered: Future[list[Answer]] = Future()
        self._answers: dict[int, Answer] = {}
        if not requests:
            self.answered.set_result([])

    def put(self, i: int, completion: Completion) -> None:
        """Only the thread that steps calls this."""
        self._answers[i] = Answer(self.requests[i].id, self.requests[i].key, completion)
        if len(self._answers) == len(self.requests):
            self.answered.set_result([self._answers[j] for j in range(len(self.requests))])


ENGINE = VllmEngine


def _environment(gpus: float) -> None:
    """What vLLM reads from the environment, before it is imported. What the user has set stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not gpus:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def _engine(model: Model, settings: TargetSettings, gpus: float) -> Any:
    # Not vllm.LLM: it is a wrapper that generates one list at a time, and its import brings an HTTP server along.
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
        # Ray's own executor would ask Ray for GPUs that this actor already holds.
        arguments["distributed_executor_backend"] = "mp"
    if not gpus:
        # No prompt in parts: after one vLLM turns a seeded request's generator back, which those of a CPU cannot.
        arguments |= {"enforce_eager": True, "max_num_seqs": CPU_SEQUENCES, "enable_chunked_prefill": False}
        if settings.dtype == "auto":
            arguments["dtype"] = "float32"
        _inspect_here()
    args = EngineArgs(**arguments)
    config = args.create_engine_config(UsageContext.LLM_CLASS)
    if not gpus and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        config.cache_config.kv_cache_memory_bytes = _cache_bytes(config)
    return LLMEngine.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)


def _inspect_here() -> None:
    """Look at a model's class in this process: vLLM starts another (once a machine, 13 s) to keep CUDA untouched."""
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda look: look()


def _cache_bytes(config: Any) -> int:
    """Memory for keys and values on a CPU: all sequences at full length, or CPU_CACHE_GIB where that is more."""
    model, parallel = config.model_config, config.parallel_config
    per_token = 2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    wanted = (CPU_SEQUENCES + 1) * (model.max_model_len + config.cache_config.block_size) * per_token
    return int(min(wanted * model.dtype.itemsize, CPU_CACHE_GIB * 2**30))


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        seed=request.seed,
        output_kind=_final_only(),
    )


def _bad_request() -> tuple[type[Exception], ...]:
    """What vLLM raises when the request, not the engine, is at fault."""
    from vllm import exceptions

    return (ValueError, TypeError, getattr(exceptions, "VLLMClientError", ValueError))


def _final_only() -> Any:
    # One output a request, when it is finished: nobody reads the growing text.
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
    """No garbage collection while a million objects that stay are made; then they are set aside for good.

    Starting takes a fifth less time for it, and a full collection in the middle of generating nothing at all.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
