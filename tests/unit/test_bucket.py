"""The loop and its files in an object store, on a real S3 server."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path

import pytest

from lai_ray.cli import main
from lai_ray.cli import run as cli_run
from lai_ray.cli.check.names import check_names
from lai_ray.distributed.fit import object_store
from lai_ray.errors import ConfigError, StageError
from lai_ray.storage import model_folders
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store
from tests import bucket as server
from tests.bucket import bucket  # noqa: F401
from tests.local import Crash, LocalExecutor, job, pretend_model
from tests.unit.test_loop import samples

SMALL = {
    "evaluate__max_train_problems": 30,
    "evaluate__max_test_problems": 10,
    "curate__samples_per_dataset": 8,
    "curate__keep_clear_of": "none",
}


def on(url: str, folder: Path, **changes: object):
    """The same small job with its storage elsewhere."""
    return job(folder, **SMALL, **changes).model_copy(update={"storage": url})


def test_a_run_in_a_bucket_killed_twice_ends_as_an_undisturbed_one_on_a_disk(bucket, tmp_path, capsys):  # noqa: F811
    whole = cli_run.run_job(job(tmp_path, **SMALL), executor=LocalExecutor())
    asked = []
    for death in ({"ask": 2}, {"train": 0}):
        asked.append(LocalExecutor(die_after=death))
        with pytest.raises(Crash):
            cli_run.run_job(on(f"{bucket}/runs", tmp_path), executor=asked[-1])
    asked.append(LocalExecutor())
    resumed = cli_run.run_job(on(f"{bucket}/runs", tmp_path), executor=asked[-1])
    assert samples(resumed.run) == samples(whole.run)
    for verb in ("generate", "ask"):
        keys = [request.key for executor in asked for request in executor.requests[verb]]
        assert len(keys) == len(set(keys))
    again = LocalExecutor()
    finished = cli_run.run_job(on(f"{bucket}/runs", tmp_path), executor=again)
    assert not again.asked
    card = finished.run.store.get("iteration_0/train/checkpoint/README.md").decode()
    assert "word_problems.test" in card, "the model sat its tests"
    assert not list(tmp_path.rglob("s3:*")), "no folder that is called like a URL"

    # Read back by the commands, and taken over by another name: nothing is asked or trained.
    main.report([f"{bucket}/runs/small"])
    main.show(f"{bucket}/runs/small", None)
    said = capsys.readouterr().out
    assert "word_problems" in said and "Traceback" not in said
    taker = LocalExecutor()
    other = cli_run.run_job(
        on(f"{bucket}/other", tmp_path, name="taker"), reuse=[f"{bucket}/runs/small"], executor=taker
    )
    assert not set(taker.asked) & {"generate", "ask", "train", "embed"}
    assert model_folders.lineage_of(other.target.path) == model_folders.lineage_of(resumed.target.path)
    assert other.target.path.startswith(f"{bucket}/other/taker/")
    home = LocalExecutor()
    local = cli_run.run_job(job(tmp_path, **SMALL, name="home"), reuse=[f"{bucket}/runs/small"], executor=home)
    assert not set(home.asked) & {"generate", "ask", "train", "embed"}
    assert Path(local.target.path, "model.safetensors").is_file()


def test_a_search_in_a_bucket_keeps_the_winners_weights_alone(bucket, tmp_path):  # noqa: F811
    rates = {"search__learning_rate": [3e-4], "search__seeds": [0]}
    outcome = cli_run.run_job(on(f"{bucket}/search", tmp_path, **rates), executor=LocalExecutor())
    kept = [name for name in outcome.run.store.names() if name.endswith("checkpoint/lineage.json")]
    assert outcome.run.stage(0, "search").facts()["winner"] == "trial_1"
    assert kept == ["iteration_0/search/trial_1/start_1/train/checkpoint/lineage.json"]
    assert len(outcome.run.stage(0, "search").store.get("trials.csv").splitlines()) == 3


def test_a_model_is_copied_once_to_a_node_however_many_ask(bucket, tmp_path, monkeypatch):  # noqa: F811
    pretend_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(range(256)) * (model_folders.PIECE // 128))
    (tmp_path / "model" / "lineage.json").write_text('{"name": "abc"}')
    model_folders.copy(str(tmp_path / "model"), f"{bucket}/model")
    monkeypatch.setenv("LAI_CACHE", str(tmp_path / "cache"))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        places = pool.map(model_folders.local_path, [f"{bucket}/model"] * 3)
    assert len(set(places)) == 1
    made = Path(places[0]).stat().st_ino
    assert (Path(places[0]) / "model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    assert Path(model_folders.local_path(f"{bucket}/model")).stat().st_ino == made
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.suffix != ".lock"] == [
        Path(places[0]).name
    ]


def test_a_model_that_was_half_written_is_never_taken_for_a_whole_one(bucket, tmp_path):  # noqa: F811
    pretend_model(tmp_path / "made")
    (tmp_path / "made" / "lineage.json").write_text('{"name": "abc"}')
    asked = iter([True, True, False])
    with pytest.raises(StageError, match="half: another training"):
        model_folders.publish(tmp_path / "made", f"{bucket}/half", mine=lambda: next(asked))
    assert Store(f"{bucket}/half").exists("config.json")
    assert model_folders.lineage_of(f"{bucket}/half") is None
    with pytest.raises(StageError, match="half: an incomplete model"):
        model_folders.local_path(f"{bucket}/half")
    with pytest.raises(StageError, match=r"nothing: no model .*config\.json"):
        model_folders.local_path(f"{bucket}/nothing")


def test_a_disk_without_room_for_a_copy_is_named(bucket, small_disk, tmp_path, monkeypatch):  # noqa: F811
    pretend_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"0" * (4 << 20))
    model_folders.copy(str(tmp_path / "model"), f"{bucket}/large")
    monkeypatch.setenv("LAI_CACHE", str(small_disk))
    with pytest.raises(StageError, match=r"needs 0\.00419 GB.*LAI_CACHE"):
        model_folders.local_path(f"{bucket}/large")


def test_a_training_goes_on_where_its_progress_cannot_be_read(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise StageError("the store does not answer")

    monkeypatch.setattr(Store, "get", fails)
    monkeypatch.setattr(Store, "put", fails)
    monkeypatch.setattr(object_store, "EVERY", 0.0)
    assert object_store.report_progress(str(tmp_path), lambda done, steps: None, 7) == 7
    worker = object.__new__(object_store.ObjectStoreTraining)
    worker._store, worker._reported = Store(str(tmp_path)), 0.0
    worker.report(1, {"steps": 9})


def test_no_key_is_in_the_run_or_in_a_pickle_of_what_reaches_it(bucket, tmp_path):  # noqa: F811
    run = cli_run.run_job(on(f"{bucket}/keys", tmp_path, iterations=0), executor=LocalExecutor()).run
    for name in run.store.names():
        content = run.store.get(name)
        assert b"the-secret-of-the-tests" not in content and b"AKIATHEKEY" not in content, name
    assert b"the-secret" not in pickle.dumps(run.store) + pickle.dumps(run.stage(0, "evaluate").path("x"))


def test_the_lines_of_a_large_file_come_in_pieces(bucket):  # noqa: F811
    store = Store(f"{bucket}/lines")
    rows = [json.dumps({"row": i, "text": "x" * 3000}).encode() for i in range(4000)]
    store.put_lines("rows.jsonl", iter(rows))
    assert list(store.lines("rows.jsonl")) == rows
    with pytest.raises(FileNotFoundError):
        next(store.lines("nothing.jsonl"))


@pytest.mark.parametrize(("storage", "changes", "named"), [
    ("hdfs://host/runs", {}, "'hdfs://host/runs' .*s3://bucket/folder"),
    ("s3://", {}, "'s3://' .*gs://bucket/folder"),
    ("s3://bucket/runs", {"cluster__train_state_every": 50}, "train_state_every = 50"),
])  # fmt: skip
def test_a_storage_that_cannot_be_is_refused_before_anything_starts(tmp_path, storage, changes, named):
    with pytest.raises(ConfigError, match=named):
        check_names(on(storage, tmp_path, **changes))


def test_a_missing_bucket_and_one_without_write_access_are_reported(tmp_path, monkeypatch):
    with server.serving(tmp_path / "server.log", INITIAL_NO_AUTH_ACTION_COUNT="4") as environment:
        users = server.client(environment, "iam")
        server.client(environment).create_bucket(Bucket="locked")
        mine = server.user(users, "reader", ["s3:List*", "s3:Get*"])
        for name, value in (environment | mine).items():
            monkeypatch.setenv(name, value)
        executor = LocalExecutor()
        with pytest.raises(StageError, match="s3://locked.*AccessDenied"):
            cli_run.run_job(on("s3://locked/runs", tmp_path), executor=executor)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(StageError, match="could not be"):
            Store("s3://locked").names()
        assert not executor.asked
    with server.serving(tmp_path / "other.log") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StageError, match="NoSuchBucket.*s3://nobody "):
            Run.read("s3://nobody/run").store.names()
