"""What a job asks for, against nodes that exist, could be added, or never will."""

from __future__ import annotations

import pytest

from lai_ray.distributed.cluster.capacity import Need, needs, refuse, table, verdicts
from lai_ray.distributed.cluster.resources import Group
from lai_ray.errors import ConfigError
from tests.local import job

GPU_NODE = {"CPU": 16.0, "GPU": 4.0, "memory": 64 * 2**30}
HEAD = {"CPU": 4.0, "memory": 16 * 2**30}


def words(need: Need, nodes: list[dict[str, float]], groups: tuple[Group, ...] | None = ()) -> str:
    [verdict] = verdicts([need], nodes, groups)
    return verdict.words()


def workers(count: int, gpus: float = 1) -> Need:
    return Need("train", "workers", count, {"CPU": 1, "GPU": gpus}, together=True)


def engines(count: int, gpus: float = 1) -> Need:
    return Need("evaluate", "engines", count, {"CPU": 1, "GPU": gpus})


@pytest.mark.parametrize(("need", "nodes", "groups", "verdict"), [
    (workers(8), [GPU_NODE, GPU_NODE, HEAD], (), "fits"),
    (workers(9), [GPU_NODE, GPU_NODE], (), "NEVER: only 8 of 9 ever fit"),
    (engines(9), [GPU_NODE, GPU_NODE], (), "8 of 9 ever fit: these do all the work; ask for 8"),
    (engines(1, 8), [GPU_NODE, GPU_NODE], (), "NEVER: no node has that much (1 CPU, 8 GPU each)"),
    (engines(2, 3), [GPU_NODE, HEAD], (), "1 of 2 ever fit"),
    (workers(8), [HEAD], (Group("gpu", GPU_NODE, 2),), "0 of 8 fit now; the stage waits for the autoscaler"),
    (workers(12), [GPU_NODE], (Group("gpu", GPU_NODE, 1),), "NEVER: only 8 of 12 ever fit"),
    (workers(8), [HEAD], None, "0 of 8 fit now; it is not known whether"),
    (workers(2), [GPU_NODE], None, "fits"),
    (workers(8), [HEAD], (Group("gpu", GPU_NODE, 10_000),), "0 of 8 fit now; the stage waits for the autoscaler"),
    (workers(3, 0), [{"CPU": 2.0}], (), "NEVER: only 2 of 3 ever fit (1 CPU each)"),
    (workers(2, 0.5), [{"CPU": 2.0, "GPU": 1.0}], (), "fits"),
])  # fmt: skip
def test_the_verdict_on_a_need(need, nodes, groups, verdict):
    assert verdict in words(need, nodes, groups)


def test_every_stage_of_a_job_lists_its_needs(tmp_path):
    config = job(
        tmp_path, target__tensor_parallel=2, schedule__strategy="lec",
        cluster={"target_replicas": 2, "train_workers": 4, "gpus_per_worker": 1, "instructor_workers": 3},
    )  # fmt: skip
    listed = {(need.stage, need.what): need for need in needs(config)}
    assert listed["evaluate", "engines"].each == {"CPU": 1, "GPU": 2} and listed["evaluate", "engines"].count == 2
    assert listed["diagnose", "encoders"].each["GPU"] == 1
    assert listed["instruct", "callers"].count == 3
    assert listed["train", "workers"].together and listed["train", "workers"].count == 4
    assert ("diagnose", "encoders") not in {(n.stage, n.what) for n in needs(job(tmp_path, schedule__strategy="le"))}
    assert [need.stage for need in needs(job(tmp_path, iterations=0))] == ["evaluate"]


def test_a_stage_that_can_never_run_is_refused_before_anything_starts():
    refuse(verdicts([workers(8), engines(9)], [GPU_NODE, GPU_NODE]))
    refuse(verdicts([workers(9)], [HEAD], None))
    with pytest.raises(ConfigError, match=r"train, 9 workers: only 8 of 9 ever fit \(1 CPU, 1 GPU each\)"):
        refuse(verdicts([workers(9)], [GPU_NODE, GPU_NODE]))


def test_the_table_shows_the_resources_and_what_may_be_added():
    groups = (Group("gpu", GPU_NODE, 2),)
    made = table(verdicts([workers(8)], [HEAD], groups), [HEAD], groups)
    assert made.rows[0][:3] == ["train", "8 workers, together", "1 CPU, 1 GPU"]
    assert "1 node with 4 CPU, 16 GiB" in made.note and "may add 2 gpu (16 CPU, 4 GPU, 64 GiB)" in made.note
