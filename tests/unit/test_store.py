"""What was paid for is remembered; what is written appears whole or not at all."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from pathlib import Path

import pytest

from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Answer, Completion, Mark, Problem
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import decode, encode, key_of, key_of_all, number_of
from lai_ray.storage.store import Store, View


def answer(i: int) -> Answer:
    return Answer(f"p{i}#0", key_of(i), Completion(f"text {i}", "stop", 3, 4))


def test_a_record_survives_its_line():
    problem = Problem("gsm8k/train/00017", "gsm8k", "train", "Wie viel? \n\u2028", "5", {"choices": ["a", "b"]})
    assert decode(encode(problem), Problem) == problem
    assert b"\n" not in encode(problem)


def test_a_key_depends_on_every_part_and_on_no_order_of_a_table():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert len({key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of("a", "b", None)}) == 4
    assert 0 <= number_of("x") < 2**31


def test_answers_are_found_again_by_key_after_a_new_start(tmp_path):
    with Answers(Store(str(tmp_path)), rows=3) as answers:
        for i in range(7):
            answers.record(answer(i))
        assert answers.get(key_of(6)).text == "text 6"
    again = Answers(Store(str(tmp_path)))
    assert [again.get(key_of(i)).text for i in range(7)] == [f"text {i}" for i in range(7)]
    assert len(again) == 7
    assert key_of(8) not in again


def test_a_segment_is_closed_after_seconds_also_when_no_further_answer_comes(tmp_path):
    with Answers(Store(str(tmp_path)), seconds=0.2) as answers:
        answers.record(answer(1))
        deadline = time.monotonic() + 5
        while not len(Answers(Store(str(tmp_path)))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(Answers(Store(str(tmp_path)))) == 1


@pytest.mark.parametrize("rows", [500, 2])
def test_one_write_that_fails_stops_the_stage_and_loses_no_answer(tmp_path, monkeypatch, rows):
    store, failures = Store(str(tmp_path)), [StageError("no answer from the bucket")]
    write = store.put_lines

    def put_lines(name, lines):
        if failures:
            raise failures.pop()
        write(name, lines)

    monkeypatch.setattr(store, "put_lines", put_lines)
    recorded: list[int] = []

    def record_many():
        with Answers(store, rows=rows, seconds=0.1) as answers:
            for i in range(50):
                recorded.append(i)
                answers.record(answer(i))
                time.sleep(0.05)

    with pytest.raises(StageError, match="no answer from the bucket"):
        record_many()
    assert len(recorded) < 50
    again = Answers(Store(str(tmp_path)))
    assert [again.get(key_of(i)).text for i in recorded] == [f"text {i}" for i in recorded]


def test_an_answer_of_another_run_is_copied_at_its_first_use_and_stays_when_that_run_is_gone(tmp_path):
    with Answers(Store(str(tmp_path / "other")), rows=2) as other:
        for i in range(5):
            other.record(answer(i))
    with Answers(Store(str(tmp_path / "mine")), others=[Store(str(tmp_path / "other"))]) as answers:
        answers.record(answer(9))
        assert len(answers) == 1 and key_of(3) in answers and key_of(8) not in answers
        assert answers.keys() == {key_of(i) for i in (0, 1, 2, 3, 4, 9)}
        assert answers.get(key_of(3)).text == "text 3"
        assert [each.id for each in answers.inherited()] == ["p3#0"]
    shutil.rmtree(tmp_path / "other")
    again = Answers(Store(str(tmp_path / "mine")))
    assert again.get(key_of(3)).text == "text 3"
    assert ([each.id for each in again.inherited()], [each.id for each in again.paid()]) == (["p3#0"], ["p9#0"])
    with pytest.raises(KeyError):
        again.get(key_of(4))


def test_answers_are_read_in_any_order_from_many_segments(tmp_path):
    with Answers(Store(str(tmp_path)), rows=2) as answers:
        for i in range(41):
            answers.record(answer(i))
        order = [40, 0, *range(1, 40, 3), *range(39, -1, -2), 0]
        assert [answers.get(key_of(i)).text for i in order] == [f"text {i}" for i in order]
    assert len(Store(str(tmp_path)).names()) == 21
    assert [each.id for each in Answers(Store(str(tmp_path))).paid()] == [f"p{i}#0" for i in range(41)]


def test_what_was_sent_and_never_recorded_is_possibly_paid(tmp_path):
    with Answers(Store(str(tmp_path))) as answers:
        answers.mark_sent([Mark(key_of(i)) for i in range(5)])
        answers.record(answer(0))
    assert Answers(Store(str(tmp_path))).possibly_paid == 4


def test_an_answer_without_a_mark_or_with_two_hides_no_other_send(tmp_path):
    with Answers(Store(str(tmp_path))) as answers:
        answers.record(answer(0))  # never marked as sent, as a target's own answers
        answers.mark_sent([Mark(key_of(0)), Mark(key_of(1)), Mark(key_of(1))])
        assert answers.possibly_paid == 3
        answers.record(answer(1))
        assert answers.possibly_paid == 2
    assert Answers(Store(str(tmp_path))).possibly_paid == 1  # the answer to 0 is there: it counts for its send


@pytest.mark.parametrize("again", [False, True])
def test_an_answer_that_is_written_leaves_little_in_memory(tmp_path, again):
    rows, store = 20_000, Store(str(tmp_path))
    if again:
        with Answers(store) as answers:
            for i in range(rows):
                answers.record(answer(i))
    tracemalloc.start()
    with Answers(store) as answers:
        for i in range(0 if again else rows):
            answers.record(answer(i))
        held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(answers) == rows
    assert held / rows < 220


def test_a_file_that_breaks_off_while_written_never_appears(tmp_path):
    store = Store(str(tmp_path))

    def lines():
        yield b"one"
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        store.put_lines("cases.jsonl", lines())
    assert store.names() == []
    assert not store.exists("cases.jsonl")


def test_exclusive_create_lets_one_writer_through(tmp_path):
    store = Store(str(tmp_path))
    assert store.create("driver/0001.json", b"me")
    assert not store.create("driver/0001.json", b"you")
    assert store.get("driver/0001.json") == b"me"


def test_a_view_reads_its_file_anew_at_each_pass(tmp_path):
    store = Store(str(tmp_path))
    problems = [Problem(f"a/train/{i:05d}", "a", "train", "q" * 5000, "1") for i in range(700)]
    store.put_lines("problems.jsonl", (encode(p) for p in problems))
    view = View(store, "problems.jsonl", Problem)
    assert list(view) == list(view) == problems


def test_a_fenced_store_writes_nothing_more(tmp_path):
    def fence():
        raise StageError("a newer driver has taken over")

    store = Store(str(tmp_path), fence=fence)
    with pytest.raises(StageError, match="newer driver"):
        store.put("x.json", b"{}")
    assert store.names() == []


def test_a_full_disk_is_reported_and_what_was_written_stays(small_disk: Path):
    store = Store(str(small_disk))
    store.put("kept.json", b"{}")
    with pytest.raises(StageError, match=r"large\.jsonl .*No space left on device"):
        store.put("large.jsonl", b"x" * 200_000)
    with pytest.raises(StageError, match="No space left on device"):
        store.put_lines("lines.jsonl", [b"x" * 200_000])
    assert store.names() == ["kept.json"]


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match="quickstart: cannot be used as a folder"):
        Store(str(tmp_path / "runs" / "quickstart"))


@pytest.mark.parametrize("items", [[], ["a"], [("id", "a \u2028 text", None), {"b": 1, "a": [2.5]}]])
def test_a_key_of_many_is_that_of_their_list(items):
    assert key_of_all(iter(items)) == key_of(items)
