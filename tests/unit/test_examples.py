"""The worked examples of CONTRIBUTING.md, each one file outside the package, through whole runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lai_ray.cli import run as cli_run
from lai_ray.common import plugins
from lai_ray.contracts import Trained, TrainJob
from lai_ray.report import sections
from lai_ray.training import loop
from lai_ray.training.recipe import recipe_for
from tests.conftest import records
from tests.local import LocalExecutor, job

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
CONTRIBUTING = FOLDER.parents[1] / "CONTRIBUTING.md"
WORDS = ["rivers", "copper", "violet", "hammer", "basket", "mirror", "tunnel", "rocket", "saddle", "velvet"]


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def reply(request: Any) -> str:
    """Two new words, one of them written backwards wrongly."""
    first, second = WORDS[request.seed % 5], WORDS[5 + request.seed % 5]
    return f"1. Word: {first}\nAnswer: {first[::-1]}\n2. Word: {second}\nAnswer: {second}"


class Training(LocalExecutor):
    """Trains for real, in this process; all else is pretended."""

    def train(self, training: TrainJob, progress: Any = None) -> Trained:
        self.jobs.append(training)
        metrics = loop.train(
            recipe_for(training), training.examples, report=lambda step, figures: None, lineage=training.lineage
        )
        (Path(training.out) / "skill.json").write_text("60")
        return Trained(training.out, metrics)


def test_a_benchmark_a_strategy_and_a_section_of_ones_own_go_through_a_whole_run(tmp_path):
    executor = LocalExecutor(reply=reply)
    config = job(
        tmp_path, schedule__strategy="easier:STRATEGY", strategy__easier={"steps": 3},
        evaluate__learn_from=["reversal:BENCHMARK"], evaluate__report_on=["reversal:BENCHMARK"],
        report__sections=["answer_lengths:SECTION"], curate__samples_per_dataset=4,
    )  # fmt: skip
    run = cli_run.run_job(config, executor=executor).run
    assert all("come up to it in 3 steps" in r.messages[1]["content"] for r in executor.requests["ask"])
    samples = list(records(tmp_path / "small/iteration_0/curate/samples.jsonl"))
    assert len(samples) == 4 and {s["problem"]["question"] for s in samples} <= set(WORDS[:5])
    funnel = json.loads((tmp_path / "small/iteration_0/curate/funnel.json").read_text())
    assert funnel["reversal"]["its own answer is graded wrong"] >= 5
    assert executor.jobs[0].examples[0].messages == [
        {"role": "user", "content": f"Write {samples[0]['problem']['question']} backwards. Answer with one word."}
    ]
    (table,) = (t for t in sections.tables_of(run) if t.title.startswith("Length of answers"))
    assert table.rows == [["reversal", "14", "14"]], "I do not know."


def test_an_objective_of_ones_own_trains_a_whole_run_and_names_another_model(tmp_path):
    from lai_ray.world import STUDENT

    for path in Path(STUDENT).iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "skill.json").write_text("40")
    settings = {
        "learning_rate": 3e-4, "precision": "fp32", "max_length": 256, "sequences_per_step": 8,
        "sequences_per_device": 8, "gradient_checkpointing": False, "warmup_steps": 1,
    }  # fmt: skip
    models = {}
    for name in ("sft", "equal_examples:OBJECTIVE"):
        config = job(
            tmp_path, name=name.partition(":")[0], curate__samples_per_dataset=8, train=settings | {"objective": name}
        )
        outcome = cli_run.run_job(config, executor=Training())
        weights = torch.cat([tensor.flatten() for tensor in _tensors(Path(outcome.target.path))])
        models[name] = outcome.target.identity, weights
    (plain, first), (other, second) = models.values()
    assert plain != other
    assert 0 < float((first - second).abs().max()) < 0.1


def _tensors(folder: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_explained_in_contributing_and_loads_by_the_name_given_there(path):
    found = re.findall(rf"`{path.stem}:([A-Z]+)`", CONTRIBUTING.read_text())
    assert found, f"CONTRIBUTING.md does not name {path.name}"
    kinds = {attribute: kind for kind, attribute in plugins.ATTRIBUTES.items()}
    if found[0] in kinds:
        plugins.load(kinds[found[0]], f"{path.stem}:{found[0]}")
    else:
        assert plugins.attribute(f"{path.stem}:{found[0]}", what="section")
    assert path.read_text().count("\n") <= 120, "one screen or two"
