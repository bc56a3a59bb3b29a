"""Embeddings and FAISS shards on actors: the results of one process, in the order of the inputs, whatever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lai_ray.config.settings import ClusterSettings
from lai_ray.contracts import Model
from lai_ray.distributed.neighbours.embed import embed
from lai_ray.distributed.neighbours.nearest import nearest, shards_for
from lai_ray.errors import DataError, StageError
from tests.ray.conftest import STUDENT

RNG = np.random.default_rng(0)
CPU = ClusterSettings(target_replicas=2, gpus_per_replica=0, cpus_per_replica=0.9, stall_seconds=120)


def shards(n: int) -> ClusterSettings:
    return CPU.model_copy(update={"index_shards": n})


def test_the_result_is_that_of_float64_for_any_number_of_shards():
    """Over several shards: sixty exact ties, a thousand identical rows, and rows that differ by less than float32's
    rounding of a distance.
    """
    corpus = RNG.normal(size=(3000, 24)).astype(np.float32)
    corpus[100:160] = corpus[7]
    corpus[1200:2200] = corpus[300]
    corpus[2200:2400] = corpus[40] + np.float32(2e-7) * np.arange(200, dtype=np.float32)[:, None]
    queries = np.concatenate([corpus[[7, 200, 300, 40, 2290]], RNG.normal(size=(20, 24)).astype(np.float32)])
    exact = ((queries[:, None].astype(np.float64) - corpus[None].astype(np.float64)) ** 2).sum(axis=2)
    rows = np.broadcast_to(np.arange(len(corpus)), exact.shape)
    want = np.lexsort((rows, exact), axis=-1)[:, :5]
    found = [nearest(queries, corpus, 5, cluster=each, logs=None) for each in (CPU, shards(5))]
    assert CPU.index_shards is None
    for each in found:
        assert (each.ids == want).all()
        assert (each.distances == found[0].distances).all()
        assert each.distances == pytest.approx(np.take_along_axis(exact, want, axis=1), abs=1e-5)
    assert found[0].ids[0].tolist() == [7, 100, 101, 102, 103]
    assert found[0].ids[2].tolist() == [300, 1200, 1201, 1202, 1203]
    part = nearest(queries[2:3], corpus, 5, cluster=shards(2), logs=None)
    assert (part.ids == want[2:3]).all() and (part.distances == found[0].distances[2:3]).all()


def test_the_number_of_shards_follows_from_their_size_and_the_search():
    assert shards_for(3000, 7_473, 768, cores=64) == 1, "the paper's largest search is done before another would start"
    assert shards_for(500, 1_000_000, 768, cores=1) == 6, "none holds more than half a GiB"
    assert shards_for(9_000, 100_000, 768, cores=64) == 3
    assert shards_for(9_000, 100_000, 768, cores=2) == 2


def test_shards_that_no_node_has_memory_for_are_an_error_with_what_they_need(monkeypatch):
    monkeypatch.setattr("lai_ray.distributed.neighbours.nearest.SHARD_BASE", 1 << 45)
    cluster = CPU.model_copy(update={"stall_seconds": 3})
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(StageError, match=r"0\.1 CPU, 3\.28e\+04 GiB of memory; the cluster has .* GiB of memory"):
        nearest(ones, ones, 1, cluster=cluster, logs=None)


def test_more_shards_and_neighbours_than_rows_gives_the_rows():
    one = np.ones((1, 4), np.float32)
    assert nearest(one, one, 9, cluster=shards(4), logs=None).ids.tolist() == [[0]]


def test_an_empty_corpus_or_no_query_is_no_error():
    some, none = np.ones((2, 4), np.float32), np.zeros((0, 4), np.float32)
    assert nearest(none, some, 1, cluster=CPU, logs=None).ids.shape == (0, 1)
    assert nearest(some, none, 1, cluster=CPU, logs=None).ids.shape == (2, 0)


def test_a_nan_is_refused_before_anything_starts():
    with pytest.raises(DataError, match="row 1 of the queries"):
        nearest(np.array([[0.0], [np.nan]]), np.ones((2, 1)), 1, cluster=CPU, logs=None)


def test_no_texts_have_no_vectors():
    assert len(embed([], Model("nowhere", "none"), cluster=CPU, logs=None)) == 0


@pytest.mark.skipif(not (STUDENT / "config.json").is_file(), reason="no student in lai_ray/world/student")
def test_a_vector_is_the_one_its_text_has_alone(logs):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = [f"Tom has {i} apples" + " and gives some" * (i % 7) + "?" for i in range(40)] + ["", "x" * 3000]
    found = embed(texts, Model(str(STUDENT), "student"), cluster=CPU, logs=logs)
    tokenizer, model = AutoTokenizer.from_pretrained(STUDENT), AutoModel.from_pretrained(STUDENT, dtype=torch.float32)
    longest = min(512, model.config.max_position_embeddings)
    for row, text in enumerate(texts):
        ids = tokenizer(text, truncation=True, max_length=longest)["input_ids"] or [0]
        with torch.inference_mode():
            alone = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        assert found[row] == pytest.approx((alone / alone.norm()).numpy(), abs=1e-5)
    assert found.dtype == np.float32


def kill_one(name: str, killed: list[int], over: threading.Event) -> None:
    """SIGKILL the first actor of that name that is busy in this test's Ray."""
    while not killed and not over.is_set():
        for process in psutil.Process().children(recursive=True):
            try:
                if f"ray::{name}." in "".join(process.cmdline()[:1]):  # "ray::_Shard.nearest": during a call.
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break
            except psutil.Error:
                continue
        time.sleep(0.02)


def test_a_shard_that_is_killed_in_a_search_is_replaced_and_the_answer_is_the_same():
    corpus, queries = (RNG.normal(size=(n, 128)).astype(np.float32) for n in (120_000, 1500))
    quiet = nearest(queries, corpus, 3, cluster=shards(2), logs=None)
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_one, args=("_Shard", killed, over))
    killer.start()
    found = nearest(queries, corpus, 3, cluster=shards(2), logs=None)
    over.set()
    killer.join()
    assert killed, "no shard was busy long enough to be killed"
    assert (found.ids == quiet.ids).all() and (found.distances == quiet.distances).all()


@pytest.mark.soak
@pytest.mark.skipif(not (STUDENT / "config.json").is_file(), reason="no student in lai_ray/world/student")
def test_an_encoder_that_is_killed_is_replaced_and_the_vectors_are_the_same(logs):
    texts = [f"Tom has {i} apples" + " and gives some" * (i % 70) + "?" for i in range(300)]
    quiet = embed(texts, Model(str(STUDENT), "student"), cluster=CPU, logs=logs)
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_one, args=("MapWorker(MapBatches(_Encoder))", killed, over))
    killer.start()
    found = embed(texts, Model(str(STUDENT), "student"), cluster=CPU, logs=logs)
    over.set()
    killer.join()
    assert killed, "no encoder was busy long enough to be killed"
    assert (found == quiet).all()


def test_a_folder_without_an_encoder_is_an_error_and_is_not_tried_again(tmp_path, logs):
    with pytest.raises(StageError, match="^embedding .*ValueError"):
        embed(["a"], Model(str(tmp_path), "none"), cluster=CPU, logs=logs)
    assert len(list(Path(logs).glob("encoder-*.log"))) == 1
