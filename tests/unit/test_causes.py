"""The first exception's own words stand at the top, out of whatever the frameworks make of them."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed import causes
from lai_ray.distributed.actors import explained
from lai_ray.distributed.fit import train
from lai_ray.distributed.generation import living_engines
from lai_ray.distributed.generation.crash_isolation import MOST_STARTS, CrashIsolation
from lai_ray.engines import scripted
from lai_ray.errors import ConfigError, DataError, StageError
from tests.local import pretend_model

CHAINED = """INFO 11-30 10:00:00 [core.py:90] Initializing an engine
(Core_DP0 pid=4711) ERROR 11-30 10:00:01 [core.py:700] engine failed to start.
(Core_DP0 pid=4711) ERROR 11-30 10:00:01 [core.py:700] Traceback (most recent call last):
(Core_DP0 pid=4711) ERROR 11-30 10:00:01 [core.py:700]   File "core.py", line 7, in start
(Core_DP0 pid=4711) ERROR 11-30 10:00:01 [core.py:700]     raise ValueError(why)
(Core_DP0 pid=4711) ERROR 11-30 10:00:01 [core.py:700] ValueError: the cache holds 3 blocks, and 17 are needed
(Core_DP0 pid=4711) Process Core_DP0:
Traceback (most recent call last):
  File "api.py", line 1, in wait
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
ACTOR = """The actor died because of an error raised in its creation task, \x1b[36mray::A.__init__()\x1b[39m (pid=7)
  File "callers.py", line 40, in __init__
    import lamp
ModuleNotFoundError: No module named 'lamp'
"""


def died(text: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = text
    return error


def test_the_first_of_several_tracebacks_is_the_cause():
    assert causes.first_raised(CHAINED) == "ValueError: the cache holds 3 blocks, and 17 are needed"
    assert causes.first_raised("engine ready\nValueError: not in a traceback") is None
    raised = (
        'Traceback (most recent call last):\n  File "a.py", line 1\nKeyError: 5\n\nThe above exception was the direct'
    )
    assert (
        causes.first_raised(f"{raised} cause\n\n{raised.replace('KeyError: 5', 'my.pkg.OwnError: late')}")
        == "KeyError: 5"
    )


def test_an_error_that_only_points_to_another_is_looked_up_in_the_log(tmp_path):
    log = tmp_path / "engine-1.log"
    log.write_text(CHAINED)
    error = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    assert causes.words_or_log(error, [log]).startswith("ValueError: the cache holds 3 blocks")
    own = ValueError("no such file")
    assert causes.words_or_log(own, [log]) == "ValueError: no such file"


def test_a_message_of_several_lines_becomes_one_without_advice_for_developers():
    text = (
        "1 validation error for Settings\n  Value error, longer than 2048 [type=value_error, input_value=1]\n"
        "    For further information visit https://errors.example/x"
    )
    assert causes.words(ValueError(text)) == "ValueError: 1 validation error for Settings Value error, longer than 2048"
    assert len(causes.words(ValueError("x" * 5000))) < 700


def test_the_cause_of_a_chain_is_its_first_error():
    error = RuntimeError("cannot save")
    error.__cause__ = OSError("disk is full")
    assert causes.words(error) == "OSError: disk is full"
    assert causes.words(ValueError()) == "ValueError: no message"


def test_an_actor_whose_constructor_raised_did_not_run_out_of_memory():
    error = died(ACTOR)
    error._actor_init_failed = True
    message = str(explained(error, "embedding", "runs/x/logs"))
    assert "embedding failed in a worker: ModuleNotFoundError: No module named 'lamp'" in message
    assert "memory" not in message and "runs/x/logs" in message


def test_a_dead_process_is_explained_by_its_own_log(tmp_path):
    (tmp_path / "encoder-33.log").write_text(CHAINED)
    text = "The actor died.\n\tclass_name: E\n\tpid: {}\nWorker exit type: SYSTEM_ERROR Worker exit detail: "
    text += "Worker exits with a connection error code 2. There are some potential root causes. (1) OOM"
    known = str(explained(died(text.format(33)), "embedding", str(tmp_path)))
    assert "ValueError: the cache holds 3 blocks" in known and "memory" not in known
    unknown = str(explained(died(text.format(34)), "embedding", str(tmp_path)))
    assert "Worker exits with a connection error code 2" in unknown and "potential" not in unknown
    assert "too little memory" in unknown


def test_a_process_killed_for_memory_is_told_so():
    message = str(explained(OutOfMemoryError("Task was killed due to the node running low on memory.\nMore"), "map"))
    assert "the node running low on memory" in message and "More" not in message


def test_what_hides_a_module_is_named_before_memory(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = str(explained(died("The actor died unexpectedly."), "map"))
    assert message.index(f"{tmp_path}/queue.py hides the module 'queue'") < message.index("memory")


def test_an_error_for_the_user_is_raised_unchanged():
    error = RayTaskError("f", "Traceback (most recent call last):\nDataError: row 5", DataError("row 5"))
    assert str(explained(error, "map")) == "row 5"


@pytest.mark.parametrize("own", [True, False])
def test_an_engine_that_does_not_start_names_its_model_and_reason(tmp_path, monkeypatch, own):
    pretend_model(tmp_path / "model")

    def engine(*arguments):
        raise ConfigError("no template") if own else OSError("weights are cut off")

    monkeypatch.setattr(scripted, "ENGINE", engine)
    target = Model(str(tmp_path / "model"), "x")
    with pytest.raises(ConfigError if own else StageError) as raised:
        living_engines.build(target, TargetSettings(model=target.path, engine="scripted"), 0)
    assert ("no template" if own else f"{target.path} does not start: OSError: weights are cut off") in str(
        raised.value
    )


def test_engines_that_keep_dying_begin_with_the_reason():
    isolation = CrashIsolation([None], [5], 1)
    for _ in range(MOST_STARTS + 1):
        isolation.started()
    assert "too little memory" in str(isolation.plan(0).failure)
    isolation.failed("RuntimeError: CPU dispatcher tracing is not available")
    failure = str(isolation.plan(0).failure)
    assert failure.startswith("generate: RuntimeError: CPU dispatcher tracing is not available")
    assert "memory" not in failure


def test_a_training_is_explained_by_the_workers_words(tmp_path):
    (tmp_path / "train-0.log").write_text(CHAINED)
    wrapped = RuntimeError("a background process failed; see the stack trace")
    message = str(train._explained([wrapped], ClusterSettings(), str(tmp_path)))
    assert "ValueError: the cache holds 3 blocks" in message and f"{tmp_path}/train-*.log" in message
