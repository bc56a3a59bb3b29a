"""The main job, submitted, killed and resumed: real vLLM, Ray, FAISS, DeepSpeed and the openai client.

Two logical CPUs, `ray job submit`, token authentication.
"""

from __future__ import annotations

import itertools
import json

from lai_ray.common import plugins
from lai_ray.contracts import Model, StrategySettings
from lai_ray.records import Case
from lai_ray.report import facts
from lai_ray.storage import canaries
from lai_ray.storage.run import Run
from lai_ray.strategies import le, lec, untargeted
from lai_ray.world import rules
from lai_ray.world import word_kinds as kinds
from tests.conftest import IN_FLIGHT, Submitted, lai, records
from tests.distributions import by_chance, total_variation


def test_a_killed_job_is_resumed_and_no_recorded_reply_is_asked_again(submitted: Submitted):
    assert submitted.killed.returncode != 0 and "Test scores" not in submitted.killed.stdout
    assert len(list((submitted.folder / "driver").glob("*.json"))) == 2
    assert submitted.kept, "some replies were recorded before the kill"
    assert not [each for each in submitted.asked_after if each["reply_sha256"] in submitted.kept]
    calls = sum(
        json.loads(file.read_text())["calls"] for file in submitted.folder.glob("iteration_*/instruct/usage.json")
    )
    asked = len(submitted.asked_before) + len(submitted.asked_after)
    # Those on their way, and replies in a segment that is not closed: it is, after as many rows.
    assert asked <= calls + 2 * IN_FLIGHT, "more was paid for in vain than was in flight at the kill"


def test_the_whole_job_runs_on_two_logical_cpus(submitted: Submitted):
    assert "Test scores" in submitted.printed
    assert json.loads((submitted.folder / "run.json").read_text())["config"]["iterations"] == 2
    assert (submitted.folder / "iteration_1/train/checkpoint/model.safetensors").is_file()


def test_a_relative_storage_is_refused_since_ray_deletes_it(submitted: Submitted):
    assert submitted.refused.returncode != 0
    assert "storage = 'runs'" in submitted.refused.stdout + submitted.refused.stderr


def test_the_target_gets_better_at_what_it_learned_from(quickstart):
    folder, _ = quickstart
    first, *_, last = facts.iterations(Run.read(str(folder)))
    change = facts.change(first, last, "word_problems", 0.95)
    assert first.scores()["word_problems.test"]["n"] == 600
    assert change.value >= 0.03, change
    assert change.low > 0, change
    transfer = facts.change(first, last, "word_problems_plus", 0.95)
    assert transfer.high > 0, transfer


def test_lec_came_second_and_showed_three_correct_questions(quickstart):
    folder, _ = quickstart
    assert {case["strategy"] for case in records(folder / "iteration_0/diagnose/cases.jsonl")} == {"le"}
    cases = records(folder / "iteration_1/diagnose/cases.jsonl")
    assert {(case["strategy"], len(case["contrasts"])) for case in cases} == {("lec", 3)}
    distances = [[c["distance"] for c in case["contrasts"]] for case in cases]
    assert all(row == sorted(row) for row in distances)


def test_each_start_of_the_run_started_its_engine_processes_once(quickstart):
    """Two, for three evaluations with an engine of its own on each of two replicas."""
    folder, _ = quickstart
    logs = [log.read_text(errors="replace") for log in (folder / "logs").glob("engine-*.log")]
    for line, times in (("engine process started", 2 * 2), ("engine ready", 3 * 2)):
        assert sum(log.count(line) for log in logs) == times, line


def test_every_engine_of_a_trained_model_was_seen_to_hold_its_weights(quickstart):
    folder, _ = quickstart
    for i in (0, 1):
        known = canaries.read(str(folder / f"iteration_{i}/train/checkpoint"))
        assert len(known) == 4 and all(canary.before != canary.after for canary in known)
    assert not [log for log in (folder / "logs").glob("engine-*.log") if "engine refused" in log.read_text()]


def test_every_model_made_has_a_card_with_its_scores_and_curves(quickstart):
    folder, _ = quickstart
    for i in (0, 1):
        card = (folder / f"iteration_{i}/train/checkpoint/README.md").read_text()
        score = json.loads((folder / f"iteration_{i + 1}/evaluate/scores.json").read_text())["word_problems.test"]
        assert f"| word_problems.test | {score['right']} of {score['n']} (" in card
        assert "| samples | 600 |" in card
        assert list((folder / f"iteration_{i}/train/tensorboard").glob("events*"))


def test_the_report_has_what_a_reader_looks_for(quickstart):
    folder, printed = quickstart
    report = (folder / "report.md").read_text()
    for heading in ("Test scores", "word_problems by group", "From attempts to samples", "Time, seconds", "Instructor"):
        assert f"## {heading}" in report
    assert "in-domain" in report
    assert "out-of-domain" in report
    assert "vllm" not in printed.lower(), "the engines' chatter belongs into logs/"


def test_the_same_command_on_the_finished_run_starts_no_ray_and_opens_no_model(submitted: Submitted):
    command = ["run", *submitted.job]
    here = lai(*command)  # The job ran in a copy of this folder; the weights here are other files, looked at once.
    assert here.returncode == 0, here.stderr
    opened = (
        "import sys\n"
        f"sys.argv = {['lai', *command]}\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event == 'open' else None)\n"
        "from lai_ray.cli.main import main\n"
        "main_failed = None\n"
        "try: main()\n"
        "except SystemExit as stop: main_failed = stop.code\n"
        "assert not main_failed\n"
        "weights = [name for name in seen if name.endswith('.safetensors')]\n"
        "assert not weights, weights\n"
        "assert not {'ray', 'vllm', 'torch'} & set(sys.modules)\n"
    )
    import subprocess
    import sys

    from tests.conftest import REPO

    done = subprocess.run([sys.executable, "-c", opened], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Test scores" in done.stdout


def test_one_grep_prints_a_problems_whole_life(quickstart):
    folder, _ = quickstart
    sample = records(folder / "iteration_0/curate/samples.jsonl")[0]
    problem = sample["id"].partition("#")[0]
    found = {
        file.relative_to(folder).as_posix()
        for file in (folder / "iteration_0").rglob("*.jsonl")
        if any(json.dumps(problem)[1:-1] in line for line in file.read_text().splitlines())
    }
    for name in ("evaluate/attempts/word_problems.train", "diagnose/cases", "instruct/replies", "curate/samples"):
        assert f"iteration_0/{name}.jsonl" in found


def test_le_lec_and_untargeted_requests_bring_different_problems(quickstart):
    """Real mistakes of the real target, the tutor's own rules. Each way of asking must differ from both others."""
    folder, _ = quickstart
    iteration = facts.iterations(Run.read(str(folder)))[1]
    mistakes = list(iteration.stage("diagnose").view("cases.jsonl", Case))[:250]
    attempts = facts.attempts(iteration, "word_problems.train")
    any_problem = [case for case, _ in zip(untargeted.STRATEGY.cases(attempts, TOLD, None), mistakes, strict=False)]
    written = {
        "le": [problems_written(le.STRATEGY, case, i) for i, case in enumerate(mistakes)],
        "lec": [problems_written(lec.STRATEGY, case, i) for i, case in enumerate(mistakes)],
        "untargeted": [problems_written(untargeted.STRATEGY, case, i) for i, case in enumerate(any_problem)],
    }
    for one, other in itertools.combinations(written, 2):
        apart = total_variation(written[one], written[other])
        print(f"{one} and {other}: total variation {apart:.2f}")
        assert by_chance(written[one], written[other]) < 0.01
        assert apart > 0.1, (one, other, apart)


TOLD = StrategySettings(1, 0, 3, 3, Model("", ""), count_cut_off=False, show_reference=False)


def problems_written(strategy, case, seed):
    """What the tutor writes: the kind, size and wording of each problem."""
    benchmark = plugins.load("benchmarks", "word_problems")
    pieces = benchmark.parse(rules.reply(strategy.next(case, [], benchmark, TOLD).messages, seed))
    items = [kinds.recognise(piece.question) for piece in pieces]
    return [(item.kind, item.size, item.wording) for item in items]


def test_the_story_of_a_mistake_is_told_from_question_to_sample(quickstart):
    folder, _ = quickstart
    done = lai("show", str(folder))
    assert done.returncode == 0, done.stderr
    for chapter in ("the target answers", "the instructor is asked", "the instructor writes", "learned"):
        assert chapter in done.stdout
    unknown = lai("show", str(folder), "word_problems/train/99999")
    assert unknown.returncode == 2
    assert "no attempt at 'word_problems/train/99999'" in unknown.stderr


def test_the_trained_model_says_where_it_comes_from(quickstart):
    folder, _ = quickstart
    lineage = json.loads((folder / "iteration_0/train/checkpoint/lineage.json").read_text())
    after = json.loads((folder / "iteration_1/train/checkpoint/lineage.json").read_text())
    assert lineage["base"] == json.loads((folder / "run.json").read_text())["identity"]["content"]["target"]
    assert after["base"] == lineage["name"]
