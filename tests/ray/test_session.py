"""Ray starts when it is needed, with an error when it cannot, and a run that needs nothing never loads it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from lai_ray.config.config import Config
from lai_ray.config.job_file import parse
from lai_ray.distributed.connect import fits, start
from lai_ray.distributed.executor import CHUNK, RayExecutor
from lai_ray.errors import ConfigError, DataError
from tests.ray.conftest import STUDENT


def config(**cluster: object) -> Config:
    return parse(
        {
            "name": "test",
            "target": {"model": str(STUDENT), "engine": "scripted"},
            "evaluate": {"learn_from": ["word_problems"]},
            "contrast": {"encoder": "target"},
            "instructor": {"model": "m"},
            "cluster": {"gpus_per_replica": 0, "gpus_per_worker": 0} | cluster,
        }
    )


def python(code: str, **environment: str) -> str:
    """The output of a new process with its own Ray or none; the test suite's cluster is hidden from it."""
    import os

    before = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    head = "from tests.ray.test_session import config\nfrom lai_ray.distributed.executor import RayExecutor\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        env=before | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_run_with_nothing_left_to_do_never_loads_ray():
    code = """
        import sys
        executor = RayExecutor(config(), None)
        assert list(executor.generate([], None)) == []
        assert list(executor.map(abs, [-1])) == [1]
        executor.close()
        print("ray" in sys.modules)
    """
    assert python(code).strip() == "False"


def test_items_are_mapped_in_order_and_errors_are_raised_unchanged():
    executor = RayExecutor(config(), None)
    assert list(executor.map(lambda n: n * n, range(5 * CHUNK + 7))) == [n * n for n in range(5 * CHUNK + 7)]

    def broken(n: int) -> int:
        if n == 3 * CHUNK:
            raise DataError("row 192 is bad")
        return n

    with pytest.raises(DataError, match="row 192 is bad"):
        list(executor.map(broken, range(5 * CHUNK)))
    executor.close()


def test_close_leaves_a_ray_that_was_there_before(ray_session):
    executor = RayExecutor(config(), None)
    list(executor.map(str, range(CHUNK + 1)))
    executor.close()
    executor.close()
    assert ray_session.is_initialized()


def test_resources_that_this_machine_lacks_are_named_with_their_setting():
    with pytest.raises(ConfigError, match=r"gpus_per_replica asks for 1 GPU; this machine has 0.*0 runs on the CPU"):
        fits(config(gpus_per_replica=1), {"CPU": 2.0})
    with pytest.raises(ConfigError, match="cpus_per_worker asks for 4 CPU; this machine has 2"):
        fits(config(cpus_per_worker=4), {"CPU": 2.0})


def test_an_address_that_does_not_answer_is_named_with_its_setting():
    code = """
        from lai_ray.errors import ConfigError
        try:
            list(RayExecutor(config(), None).map(abs, range(100)))
        except ConfigError as error:
            print(error)
    """
    output = python(code, RAY_ADDRESS="127.0.0.1:1")
    assert "no Ray cluster answers at '127.0.0.1:1', named by RAY_ADDRESS" in output
    assert "ray start --head" in output


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", r"clients of the cluster.*lai submit JOB --address http://head:8265"),
        ("http://127.0.0.1:8265", r"the dashboard's address.*lai submit JOB --address http://127.0.0.1:8265"),
    ],
)
def test_a_cluster_is_not_driven_from_outside(address, message, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=f"cluster.address = '{address}' is .*{message}"):
        start(config(address=address))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS = '{address}' is .*{message}"):
        start(config())


def test_workers_find_plug_ins_beside_the_job_and_no_file_there_hides_a_module(tmp_path):
    (tmp_path / "my_plugin.py").write_text("import code, pandas\n\n\ndef double(n):\n    return 2 * n\n")
    for module in ("code", "h2", "pandas", "datasets", "uvloop"):  # Ray and its agents import them, or try to.
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('a file of the user')\n")
    code = f"""
        import os
        from lai_ray.common import plugins, search_path
        os.chdir({str(tmp_path)!r})
        search_path.user_folder_last()
        double = plugins.attribute("my_plugin:double", what="a test")
        executor = RayExecutor(config(), None)
        print(sum(executor.map(double, range(200))))
        executor.close()
        import ray
        print(ray.is_initialized())
    """
    assert python(code).split() == [str(sum(2 * n for n in range(200))), "False"]


@pytest.mark.soak
def test_a_token_in_the_home_folder_is_not_sent_to_a_cluster_without_tokens(tmp_path):
    """Ray sends a token it finds, and then takes no word from a cluster that has none: its actors were abandoned."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("5" * 64)
    code = """
        from ray.cluster_utils import Cluster
        from lai_ray.contracts import Model
        from lai_ray.records import Request

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        executor = RayExecutor(config(address=cluster.address, target_replicas=1, cpus_per_replica=0.5), None)
        asked = [Request("q#0", "0" * 32, [{"role": "user", "content": "1 + 2"}], max_tokens=5)]
        print([answer.completion.text for answer in executor.generate(asked, Model("arithmetic", "x"))])
        executor.close()
        cluster.shutdown()
    """
    assert "['The answer is 3.']" in python(code, HOME=str(tmp_path))
