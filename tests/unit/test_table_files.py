"""Files as people have them: packed, wrapped, in other separators and encodings; what is no table is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pytest

from lai_ray.benchmark_kinds.table_files import read_rows
from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.errors import ConfigError, DataError

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2, then?", "answer": "4"}]
TABLE = 'question,answer\n1 + 1?,2\n"2 + 2, then?",4\n'
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
SEMICOLONS = "question;answer\n1 + 1?;2\n2 + 2, then?;4\n"


CUT = {"features": [1], "rows": [{"row_idx": 5, "row": {"a": 1}, "truncated_cells": ["a"]}]}


def zstd(text: str) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(text.encode())
    return out.getvalue().to_pybytes()


FORMS = {
    "semicolons.csv": SEMICOLONS,
    "excel.csv": "sep=;\n" + SEMICOLONS,
    "tabs.tsv": SEMICOLONS.replace(";", "\t"),
    "tabs.csv": SEMICOLONS.replace(";", "\t"),
    "mark.csv": b"\xef\xbb\xbf" + TABLE.encode(),
    "wide.csv": TABLE.encode("utf-16"),
    "wide.jsonl": LINES.encode("utf-16"),
    "spaces.csv": TABLE.replace("question,answer", "question , answer"),
    "padded.csv": 'question,answer,,\n1 + 1?,2,,\n"2 + 2, then?",4,,\n,,,\n',
    "a.csv.gz": gzip.compress(TABLE.encode()),
    "a.csv.bz2": bz2.compress(TABLE.encode()),
    "a.jsonl.xz": lzma.compress(LINES.encode()),
    "a.csv.zst": zstd(TABLE),
    "unnamed_gzip.csv": gzip.compress(TABLE.encode()),
    "data.json": json.dumps({"version": 1, "data": ROWS, "errors": []}),
    "rows.json": json.dumps({"rows": [{"row": row} for row in ROWS]}),
    "served.json": json.dumps(
        {
            "features": [{"name": "question"}],
            "rows": [{"row_idx": i, "row": r, "truncated_cells": []} for i, r in enumerate(ROWS)],
        }
    ),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "pandas.json": json.dumps({name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}),
    "split.json": json.dumps({"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path, name):
    content = FORMS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    read = [{key: value for key, value in row.record.items() if key} for row in read_rows(tmp_path / name)]
    assert read == ROWS


def test_arrow_comes_as_a_file_or_a_stream(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for name, new in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / name), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table)
        assert [row.record for row in read_rows(tmp_path / name)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00[Content_Types].xml", "Excel.*CSV"),
        ("a.xlsx", b"PK\x03\x04\x14\x00xl/workbook.xml", "Excel.*CSV"),
        ("a.csv", b"PK\x03\x04\x14\x00rows.csv", "zip.*unpack"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1", "Office.*CSV"),
        ("a.csv", b"%PDF-1.7\n", "PDF"),
        ("a.csv", b"PAR1\x15\x04", r"Parquet.*\.parquet"),
        ("a.json", b"ARROW1\x00\x00", r"Arrow.*\.arrow"),
        ("a.jsonl", b"\x80\x04\x95\x0b", "pickle"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("a.json", b"<!DOCTYPE html>\n<html>", "web page.*download"),
        ("a.csv", b"\n<html><body>Not found</body></html>", "web page.*download"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "UTF-8"),
        ("a.csv", b'{"a": 1}\n{"a": 2}\n', r"JSON.*\.jsonl"),
        ("a.json", b"question,answer\n1,2\n", r"JSON.*\.csv"),
        ("a.csv.xz", b"\xfd7zXZ\x00\x00\x00", "damaged xz"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd\x00\x00", "damaged zstd"),
        ("a.csv", b"question,answer,answer\n1,2,3\n", ":1: .*'answer'"),
        ("a.csv", b"question,answer, answer\n1,2,3\n", ":1: .*'answer'"),
        ("a.jsonl", b'{"a": 1}\n{"answer": 1, "answer": 2}\n', ":2: .*'answer'"),
        ("a.json", b'[{"answer": 1, "answer": 2}]', ": .*'answer'.*2"),
        ("a.jsonl", b'{"a": {"B": 1, "B": 2}}', ":1: .*'B'"),
        ("a.json", json.dumps(CUT).encode(), "shortened a of row 5"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_rows_is_named_with_what_to_do(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name}.*{parts}"):
        list(read_rows(tmp_path / name))


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["answer", "answer"]), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"a\.parquet.*answer"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize("inner", [{"options": [{"key": "A", "value": "x"}]}, {"messages": [{"role": "user"}]}])
def test_a_file_of_one_row_is_not_a_list_of_what_is_in_it(tmp_path, inner):
    (tmp_path / "one.json").write_text(json.dumps({"question": "?", **inner}))
    assert [row.record for row in read_rows(tmp_path / "one.json")] == [{"question": "?", **inner}]


def own(path, **settings):
    return user_benchmark(BenchmarkSettings(name="mine", train=str(path), **settings))


def test_a_saved_data_set_is_read_with_the_names_of_its_labels(tmp_path):
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])}
    )
    saved = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": [1, 0]}, features=features)
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "both")
    mine = own(tmp_path / "both/train", kind="label")
    assert [mine.problem(row, "train", 0).answer for row in mine.load("train")] == ["yes", "no"]
    with pytest.raises(ConfigError, match="both/test.*both/train"):
        list(own(tmp_path / "both", kind="label").load("train"))


@pytest.mark.parametrize("other", ["Answer", "answer "])
def test_columns_that_differ_in_spaces_or_case_alone_are_refused(tmp_path, other):
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "?", "answer": "1", other: "2"}]))
    with pytest.raises(ConfigError, match=rf"'answer' and '{other}'"):
        list(own(tmp_path / "rows.json", kind="number").load("train"))
