"""One live driver writes a run, and a run keeps its identity."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from lai_ray.errors import ConfigError, StageError
from lai_ray.storage.driver import FRESH, Driver
from lai_ray.storage.identity import differences, flat
from lai_ray.storage.run import Run


def driver_file(tmp_path, number: int, **changes):
    folder = tmp_path / "driver"
    folder.mkdir(exist_ok=True)
    me = psutil.Process()
    fresh = {
        "host": socket.gethostname(),
        "pid": me.pid,
        "born": me.create_time(),
        "heartbeat": time.time(),
        "ended": False,
    }
    (folder / f"{number:04d}.json").write_text(json.dumps(fresh | changes))


def test_a_driver_takes_the_next_number_and_records_its_end(tmp_path):
    for number in (1, 2):
        driver = Driver(str(tmp_path))
        assert driver.number == number
        driver.close()
        assert json.loads((tmp_path / "driver" / f"{number:04d}.json").read_text())["ended"]


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path):
    driver_file(tmp_path, 1)
    with pytest.raises(StageError, match=rf"process {os.getpid()} on"):
        Driver(str(tmp_path))


def test_a_driver_that_died_on_this_machine_is_ignored_at_once(tmp_path):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    driver_file(tmp_path, 1, pid=int(child.stdout))
    driver = Driver(str(tmp_path))
    assert driver.number == 2
    driver.close()


def test_a_driver_on_another_machine_counts_while_its_heartbeat_is_fresh(tmp_path):
    driver_file(tmp_path, 1, host="elsewhere")
    with pytest.raises(StageError, match="on elsewhere"):
        Driver(str(tmp_path))
    driver_file(tmp_path, 1, host="elsewhere", heartbeat=time.time() - FRESH - 1)
    Driver(str(tmp_path)).close()


def test_an_overtaken_driver_writes_nothing_more(tmp_path):
    old = Driver(str(tmp_path))
    run = Run(str(tmp_path), fence=old.fence, create=True)
    run.store.put("a.json", b"1")
    driver_file(tmp_path, old.number + 1)
    with pytest.raises(StageError, match="newer driver"):
        run.store.put("b.json", b"2")
    with pytest.raises(StageError, match="newer driver"):
        run.stage(0, "evaluate").store.put("c.json", b"2")
    old.close()


def test_a_marker_counts_only_for_its_own_key(tmp_path):
    stage = Run(str(tmp_path), create=True).stage(0, "evaluate")
    assert not stage.done("k")
    stage.finish("k", answers=3)
    assert stage.done("k")
    assert not stage.done("other")
    assert stage.facts()["answers"] == 3


def test_a_folder_without_a_run_names_the_runs_beside_it(tmp_path):
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"quickstrat: .*run\.json.*: quickstart"):
        Run.read(str(tmp_path / "quickstrat"))


def test_a_table_flattens_to_dotted_keys():
    assert flat({"a": {"b": 1, "c": {"d": (1, 2)}}}) == {"a.b": 1, "a.c.d": [1, 2]}


def test_what_differs_is_named_in_the_order_of_the_settings_and_hashes_last():
    there = {"target": {"model": "a", "engine": "vllm"}, "content": {"target": 32 * "0"}, "train": {"epochs": 1}}
    now = {"target": {"model": "b", "engine": "vllm"}, "content": {"target": 32 * "1"}, "train": {"epochs": 2}}
    assert [line.partition(":")[0] for line in differences(there, now)] == [
        "target.model", "train.epochs", "content.target"
    ]  # fmt: skip
