"""The rows of published files, in every published format, and errors for missing and malformed files."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from lai_ray.benchmark_kinds.rows import SplitSource, rows, source_of, text_field
from lai_ray.benchmark_kinds.table_files import read_rows
from lai_ray.errors import ConfigError, DataError

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "zwei\u2028Zeilen", "answer": "é"}]
SOURCE = SplitSource(
    files=(("test",), ("main/test",)), config="main", splits=("test",), get="https://example.org/test.jsonl"
)


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def table() -> bytes:
    import io

    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["question", "answer"])
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


FORMS = {
    "test.jsonl": lines(),
    "test.json": json.dumps(ROWS).encode(),
    "test.jsonl.gz": gzip.compress(lines()),
    "test.json.gz": gzip.compress(json.dumps(ROWS, indent=4).encode()),
    "test.csv": table(),
    "test.csv.gz": gzip.compress(table()),
}


def records(source):
    return [row.record for row in rows("sums", str(source), SOURCE)]


@pytest.mark.parametrize("name", FORMS)
def test_every_upstream_form_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    assert records(tmp_path) == ROWS


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS, indent=4).encode(),
        b"\n\n" + json.dumps(ROWS).encode(),
        b"\xef\xbb\xbf" + lines(),
        lines().replace(b"\n", b"\r\n\r\n"),
        json.dumps({"canary": "x", "examples": ROWS}).encode(),
        json.dumps({"canary": "x", "examples": ROWS}, indent=1).encode(),
    ],
    ids=[
        "array, indented",
        "array after blank lines",
        "byte order mark",
        "CRLF and blank lines",
        "in an object",
        "in an object, indented",
    ],
)
def test_a_file_called_jsonl_may_hold_any_json(tmp_path, content):
    (tmp_path / "test.jsonl").write_bytes(content)
    assert records(tmp_path) == ROWS


def test_parquet_comes_whole_or_in_shards(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "main").mkdir()
    for i, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"main/test-{i:05d}-of-00002.parquet")
    assert records(tmp_path) == ROWS


def test_the_benchmarks_own_folder_and_the_shallowest_file_are_read(tmp_path):
    for folder in ("other", "sums/deep", "sums"):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        (tmp_path / folder / "test.jsonl").write_text(json.dumps({"in": folder}))
    assert records(tmp_path) == [{"in": "sums"}]
    assert [r.record for r in rows("maths", str(tmp_path), SOURCE, folders=("other",))] == [{"in": "other"}]


def test_a_star_matches_all_files_in_order_and_a_table_without_header_gets_the_columns(tmp_path):
    source = SplitSource((("test/*_test", "val/*_val"),), None, ("test",), "", columns=("question", "answer"))
    (tmp_path / "test").mkdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "test/b_test.csv").write_text('"x, y",1\n')
    (tmp_path / "test/a_test.csv").write_text("z,2\n")
    (tmp_path / "val/a_val.csv").write_text("question,answer\nw,3\n")
    read = rows("sums", str(tmp_path), source)
    assert [(r.file, r.record["question"]) for r in read] == [("a_test", "z"), ("b_test", "x, y"), ("a_val", "w")]


def test_a_missing_file_is_reported_with_the_files_there_are_and_where_to_get_it(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"sums.* test; .*main/test .*train\.jsonl.*example\.org"):
        records(tmp_path)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "nowhere"])
def test_a_missing_folder_is_refused(source):
    with pytest.raises(ConfigError, match=f"{source}.*folder"):
        records(source)


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "test.jsonl").write_bytes(lines())
    with pytest.raises(ConfigError, match=r"test\.jsonl.*folder"):
        records(tmp_path / "test.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("test.jsonl", b'{"a": 1}\n\n{"a": \n', r"test\.jsonl:3:.*JSON"),
        ("test.jsonl", b'{"a": 1\n{"a": 2}\n', r"test\.jsonl:1:.*JSON"),
        ("test.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"test\.jsonl:2:.*UTF-8.*0xff"),
        ("test.jsonl", b'{"a": 1}\n7\n', r"test\.jsonl:2:.*object.* 7"),
        ("test.json", b'\n[{"a": 1},\n{"a": }]', r"test\.json:3:.*JSON"),
        ("test.json", b"[" * 100_000, r"test\.json:1:.*JSON"),
        ("test.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], r"test\.jsonl\.gz:.*gzip"),
        ("test.csv", b"question,answer\n1,2,3\n", r"test\.csv:2:.*3.*2"),
        ("test.csv", b'question,answer\n"1,2\n', r"test\.csv:2:.*CSV"),
        ("test.parquet", b"PAR?", r"test\.parquet:.*Parquet"),
    ],
)
def test_a_malformed_file_is_reported_with_its_line(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=parts):
        records(tmp_path)


def test_a_changed_file_is_read_again(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"a": 1}\n')
    first = records(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert (len(first), len(records(tmp_path))) == (1, 2)


def test_a_missing_field_is_reported_with_the_fields_there_are():
    assert text_field({"a": None, "b": 0}, "a", "b") == "0"
    with pytest.raises(DataError, match="'answer'.*'key'.*question"):
        text_field({"question": "?"}, "answer", "key")


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="sums.*'train'.*test"):
        source_of("sums", {"test": SOURCE}, "train")


def test_a_hub_name_is_loaded_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert records("somebody/sums") == ROWS
    assert asked == [("somebody/sums", "main", "test")]


def test_a_failed_hub_load_is_reported_with_what_to_do(monkeypatch):
    def load_dataset(*_, **__):
        raise OSError("no route to host\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConfigError, match=r"sums.*main.*no route to host.*example\.org.*\[data\] sums ="):
        records("somebody/lost")


def test_a_file_of_one_row_is_one_row(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "?", "choices": ["a"]}))
    assert [row.where for row in read_rows(tmp_path / "test.jsonl")] == [f"{tmp_path}/test.jsonl:1"]
