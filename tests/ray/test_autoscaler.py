"""What an autoscaler may add to a cluster, read from the command line of Ray's processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from lai_ray.distributed.cluster import autoscaler
from lai_ray.distributed.cluster.autoscaler import HEAD, cluster_now, launched
from lai_ray.distributed.cluster.resources import Group

FILE = """
max_workers: 8
provider: {type: aws, secret: not-to-be-read}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}, max_workers: 0}
  cpu: {resources: {CPU: 16}, max_workers: 4}
  gpu: {resources: {CPU: 16, GPU: 1, accelerator_type:L40S: 1}, min_workers: 0, max_workers: 6}
"""
GPU = {"CPU": 16, "GPU": 1, "accelerator_type:L40S": 1}


@contextmanager
def monitor(gcs_address: str, file: Path | None) -> Iterator[None]:
    """A process with the command line of Ray's autoscaler."""
    words = ["/x/ray/autoscaler/_private/monitor.py", f"--gcs-address={gcs_address}"]
    words += [f"--autoscaling-config={file}"] if file else []
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as process:
        yield
        process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(FILE)
    return path


def test_only_the_node_types_of_the_launchers_file_are_read(file: Path):
    with monitor("10.0.0.1:6379", file):
        found = launched("", "10.0.0.1:6379")
        assert launched("", "10.0.0.2:6379") is None, "another cluster's"
    assert found == {"types": [("cpu", {"CPU": 16}, 4), ("gpu", GPU, 6)], "most": 8}
    with monitor("10.0.0.1:6379", None):
        assert launched("", "10.0.0.1:6379") == {"types": [], "most": 0}
    assert launched("", "10.0.0.1:6379") is None, "as on Kubernetes, where it runs beside the head"


@pytest.mark.parametrize("text", ["", "a: [", "available_node_types: 3", "available_node_types: {a: {max_workers: x}}"])
def test_with_a_file_that_cannot_be_read_it_is_unknown(file: Path, text: str):
    file.write_text(text)
    with monitor("10.0.0.1:6379", file):
        assert launched("", "10.0.0.1:6379") is None


@pytest.mark.usefixtures("ray_session")
def test_without_an_autoscaler_nothing_is_added_and_with_one_what_its_file_allows(monkeypatch, file: Path):
    nodes, groups = cluster_now()
    assert groups == [] and sum(HEAD in node for node in nodes) == 1
    file_content = {"types": [("cpu", {"CPU": 16}, 4), ("gpu", GPU, 6)], "most": 8}
    monkeypatch.setattr(autoscaler, "launched", lambda node, address: file_content)
    labels = {"ray.io/node-group": "gpu"}
    there = [
        *ray.nodes(),
        {"Alive": True, "NodeID": "b", "Resources": {"CPU": 16.0, "GPU": 1.0}, "Labels": labels},
        {"Alive": True, "NodeID": "c", "Resources": {"CPU": 16.0}},
        {"Alive": True, "NodeID": "d", "Resources": {"CPU": 16.0, "GPU": 1.0}},
        {"Alive": False, "NodeID": "e", "Resources": {}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    nodes, groups = cluster_now()
    assert len(nodes) == 4
    assert groups == [Group("cpu", {"CPU": 16}, 3), Group("gpu", GPU, 4)]
    file_content["types"][1] = ("gpu", {}, 6)
    assert cluster_now()[1] is None, "a node type without resources"
