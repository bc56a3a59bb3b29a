"""A wrong letter in any key or value of any file in clusters/ and jobs/ is reported, with its place.

Free values (a model's name, a disk's label) are listed with the reason; nothing else may pass.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lai_ray.cli.sweep.file import toml
from tests import cluster_files
from tests.cluster_files import ROOT, loaded

CLUSTERS = ROOT / "clusters"
YAML: dict[Path, Callable[[Any], list[str]]] = {
    CLUSTERS / "aws.yaml": lambda content: cluster_files.of_launcher(content, "aws"),
    CLUSTERS / "gcp.yaml": lambda content: cluster_files.of_launcher(content, "gcp"),
    CLUSTERS / "kuberay-claim.yaml": cluster_files.of_kuberay,
    CLUSTERS / "kuberay-raycluster.yaml": cluster_files.of_kuberay,
    CLUSTERS / "kuberay-rayjob.yaml": cluster_files.of_kuberay,
    ROOT / "jobs/runtime_env.yaml": cluster_files.of_runtime_env,
}
DOCKERFILES = {CLUSTERS / f"Dockerfile.{kind}": kind for kind in ("cpu", "gpu")}
JOBS = sorted((ROOT / "jobs").glob("*.toml"))
SWEEPS = sorted((ROOT / "jobs/sweeps").glob("*.toml"))

Place = tuple[str | int, ...]
FREE_KEYS = {
    r"available_node_types\.(cpu|gpu)": "a node type's name is ours; the head's is named a second time, and checked",
    r"arms\.\w+": "an arm's name is a label in the table of a sweep",
    r"strategy\.tripost(\.\w+)?": "a strategy's own settings: checked where it is loaded (test_calls.py)",
}
FREE_VALUES = {
    r"cluster_name|docker\.container_name|metadata\.(generateN|n)ame|name": "names of ours",
    r".*commands\.\d": "shell: its syntax, its Python, words to fill in and the options of `ray start` are checked",
    r"target\.model|instructor\.model|contrast\.encoder": "models: known when they are asked",
    r"target\.attempts\.\w+": "files of the user's",
    r"strategy\.given\.(files|question|response)": "files and columns of the user's, looked for before a run starts",
    r"train\.objective|report\.sections\.\d": "plug-ins: checked when they are loaded",
    r"(seed|seeds\.\d) = -1": "a seed is any whole number",
}
"""Values that may hold a typo which nothing can see: a place, or a place with one value."""


def places(content: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every key and list item below, with what it holds."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*at, key), value
        yield from places(value, (*at, key))


def keys(content: Any) -> list[Place]:
    """Where the keys are."""
    return [place for place, _ in places(content) if isinstance(place[-1], str)]


def values(content: Any) -> list[Place]:
    """Where the plain values are."""
    return [place for place, value in places(content) if not isinstance(value, dict | list)]


def one_letter_wrong(word: str) -> list[str]:
    """The word with a letter replaced, one missing, two swapped, and the first in the other case."""
    letters = [i for i, letter in enumerate(word) if letter.isalnum()]
    middle = letters[len(letters) // 2]
    other = "q" if word[middle] != "q" else "z"
    wrong = [word[:middle] + other + word[middle + 1 :], word[:middle] + word[middle + 1 :]]
    wrong += [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in letters[:-1] if word[i] != word[i + 1]][:1]
    wrong += [word[: letters[0]] + word[letters[0]].swapcase() + word[letters[0] + 1 :]]
    return [one for one in dict.fromkeys(wrong) if one != word]


def other_kind(value: Any) -> list[Any]:
    """Values that are none: a word with a letter wrong; a number or a truth that is a word; less than nothing."""
    if isinstance(value, bool):
        return [f"{value}x"]
    if isinstance(value, int | float):
        return [f"{value}x", -1]
    return list(one_letter_wrong(value)[:1]) if any(letter.isalnum() for letter in value) else []


def changed(content: Any, place: Place, *, key: str | None = None, value: Any = None) -> Any:
    """A copy with another key at a place, in the same order, or another value."""
    content = json.loads(json.dumps(content))
    there = content
    for part in place[:-1]:
        there = there[part]
    if key is None:
        there[place[-1]] = value
        return content
    pairs = [(key if name == place[-1] else name, inner) for name, inner in there.items()]
    there.clear()
    there.update(pairs)
    return content


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def is_free(place: Place, which: dict[str, str], value: Any = None) -> bool:
    """Whether a place is listed, or this value there."""
    spoken = (dotted(place), f"{dotted(place)} = {value}")
    return any(re.fullmatch(pattern, words) for pattern in which for words in spoken)


def named(found: list[str], place: Place, *words: str) -> bool:
    """Whether a report names the wrong word or the missing one, at the key's own table, or as a dotted path."""
    where = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[:-1])
    where = where.replace("['", ".").replace("']", "")
    plain = [re.sub(r"\['([^']*)'\]|\[\"([^\"]*)\"\]", r".\1\2", one) for one in found]
    return any(where in one and any(word in one for word in words) for one in plain)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_yaml_file_has_no_typo(path):
    assert YAML[path](loaded(path)) == []


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_letter_wrong_in_any_key_is_reported_where_it_is(path):
    content, check = loaded(path), YAML[path]
    passed, unplaced = [], []
    for place in keys(content):
        if is_free(place, FREE_KEYS):
            continue
        for typo in one_letter_wrong(str(place[-1])):
            found = check(changed(content, place, key=typo))
            passed += [] if found else [f"{dotted(place)} as {typo}"]
            unplaced += [] if not found or named(found, place, typo, str(place[-1])) else [(dotted(place), found)]
    assert passed == []
    assert unplaced == []


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_wrong_value_is_reported(path):
    content, check = loaded(path), YAML[path]
    wrong = [(place, other) for place in values(content) for other in other_kind(at(content, place))]
    passed = [
        f"{dotted(place)} as {other!r}"
        for place, other in wrong
        if not is_free(place, FREE_VALUES, other) and not check(changed(content, place, value=other))
    ]
    assert passed == []


def at(content: Any, place: Place) -> Any:
    """What is there."""
    for part in place:
        content = content[part]
    return content


def written(table: dict[str, Any], path: Path, folder: Path) -> Path:
    """A changed job or sweep as a file elsewhere, with the files it builds on where they are."""
    for key in ("extends", "job"):
        if isinstance(table.get(key), str):
            table = {**table, key: str(path.parent / table[key])}
    where = folder / path.name
    where.write_text("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in table.items()))
    return where


CHECKS = [(path, cluster_files.of_job) for path in JOBS] + [(path, cluster_files.of_sweep) for path in SWEEPS]
TOML = pytest.mark.parametrize(("path", "check"), CHECKS, ids=[path.stem for path, _ in CHECKS])


@TOML
def test_a_job_or_sweep_file_loads_as_it_is_and_written_anew(path, check, tmp_path):
    assert check(path) == []
    assert check(written(tomllib.loads(path.read_text()), path, tmp_path)) == []


@TOML
def test_a_letter_wrong_in_any_key_of_a_job_is_reported_by_name(path, check, tmp_path):
    table = tomllib.loads(path.read_text())
    passed, unplaced = [], []
    for place in keys(table):
        if is_free(place, FREE_KEYS):
            continue
        for typo in one_letter_wrong(str(place[-1])):
            found = check(written(changed(table, place, key=typo), path, tmp_path))
            passed += [] if found else [f"{dotted(place)} as {typo}"]
            wanted = dotted((*place[:-1], typo))
            report = "\n".join(found)
            placed = any(end in report for end in (wanted, dotted((*place[1:-1], typo)), dotted((*place[2:-1], typo))))
            unplaced += [] if not found or placed else [(wanted, found)]
    assert passed == []
    assert unplaced == []


@TOML
def test_a_wrong_value_of_a_job_is_reported(path, check, tmp_path):
    table = tomllib.loads(path.read_text())
    wrong = [(place, other) for place in values(table) for other in other_kind(at(table, place))]
    passed = [
        f"{dotted(place)} as {other!r}"
        for place, other in wrong
        if not is_free(place, FREE_VALUES, other)
        and not check(written(changed(table, place, value=other), path, tmp_path))
    ]
    assert passed == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_no_typo(path):
    assert cluster_files.of_dockerfile(path.read_text(), DOCKERFILES[path]) == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_letter_wrong_in_an_instruction_a_stage_or_what_it_names_is_reported(path):
    """Of RUN the instruction alone: the rest is shell."""
    lines, passed = path.read_text().splitlines(), []
    for number, line in enumerate(lines):
        words = line.split(" ")
        if not re.match(r"[A-Z]+ ", line):
            continue
        for i in range(1 if words[0] == "RUN" else len(words)):
            for typo in one_letter_wrong(words[i]) if re.search(r"\w", words[i]) else []:
                text = "\n".join([*lines[:number], " ".join([*words[:i], typo, *words[i + 1 :]]), *lines[number + 1 :]])
                found = cluster_files.of_dockerfile(text, DOCKERFILES[path])
                passed += [] if found else [f"line {number + 1}: {typo}"]
    assert passed == []


def test_every_file_of_clusters_and_jobs_has_a_check():
    studies = (ROOT / "jobs/studies").iterdir()  # Checked in test_controls.
    checked = {*YAML, *DOCKERFILES, *JOBS, *SWEEPS, CLUSTERS / "README.md", *studies}
    there = {path for folder in (CLUSTERS, ROOT / "jobs") for path in folder.rglob("*") if path.is_file()}
    assert there - checked == set()


def test_what_is_called_free_is_there():
    contents = [loaded(path) for path in YAML] + [tomllib.loads(path.read_text()) for path in (*JOBS, *SWEEPS)]
    there = {dotted(place) for content in contents for place, _ in places(content)}
    for pattern in (*FREE_KEYS, *FREE_VALUES):
        place = pattern.removesuffix(" = -1")
        assert any(re.fullmatch(place, one) for one in there), f"{pattern} is nowhere"
