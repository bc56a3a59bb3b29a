"""The instructor's server is asked once before anything is paid for, and what is wrong is said then."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lai_ray.cli import run as cli_run
from lai_ray.cli.main import app
from lai_ray.common.findings import Finding
from lai_ray.config.settings import InstructorSettings
from lai_ray.errors import ConfigError
from lai_ray.instructor.provider import probe
from lai_ray.instructor.provider.probe import Probed
from lai_ray.instructor.spending.ledger import Spent, spent_in
from lai_ray.report import facts
from lai_ray.storage.run import Run
from tests import provider
from tests.local import LocalExecutor, job

NO_SEED = 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
THOUGHT = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": {}}
PRICED = {"instructor__usd_per_million_input": 10.0, "instructor__usd_per_million_output": 30.0}


def probed(base_url: str, **settings: Any) -> Probed:
    return probe.probe(InstructorSettings(model="m", base_url=base_url, **settings))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def of(p: provider.Provider, **settings: Any) -> Finding:
    """The one finding at this provider."""
    (found,) = probed(p.base_url, **settings).findings
    return found


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(probe, "PAUSE", 0.0)


def test_a_server_that_answers_is_named_with_the_tokens_and_the_money():
    with provider.serve(reply_tokens=12) as p:
        found = of(p, max_tokens=77, usd_per_million_input=10.0, usd_per_million_output=30.0)
    assert not found.refuses
    assert p.base_url in found.text and "15 + 12 tokens, 0.000510 US$" in found.text and "--no-probe" in found.text
    (seen,) = p.log
    assert (seen.body["max_tokens"], seen.body["temperature"], "seed" in seen.body) == (77, 0.8, True)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {"error": "who are you"}), "who are you"),
        ((404, {"error": {"message": "no model m"}}), "no model m"),
        ((200, {"error": {"message": "no credit", "code": 402}}), "no credit"),
        ((400, {"error": {"message": "max_tokens is too large"}}), "instructor.max_tokens"),
        ((200, {"pages": []}), "not a chat completion"),
    ],
)
def test_what_every_request_would_meet_refuses(reply, words):
    with provider.serve(reply=lambda number, body: reply) as p:
        found = of(p)
    assert found.refuses and words in found.text and p.base_url in found.text
    with pytest.raises(ConfigError, match="--no-probe"):
        probe.refuse([found])


def test_an_address_where_nobody_answers_refuses_at_once():
    (found,) = probed(f"http://127.0.0.1:{free_port()}/v1").findings
    assert found.refuses and "instructor.base_url" in found.text


def test_a_key_that_is_not_set_refuses(monkeypatch):
    monkeypatch.delenv("LAI_TEST_KEY", raising=False)
    with provider.serve() as p:
        assert "LAI_TEST_KEY" in of(p, api_key_env="LAI_TEST_KEY").text
    assert not p.log


def test_a_refused_parameter_is_a_note_and_is_learned():
    with provider.serve(reply=lambda number, body: NO_SEED if "seed" in body else None) as p:
        result = probed(p.base_url)
    note, answered = result.findings
    assert "no seed" in note.text and not note.refuses and not answered.refuses
    assert result.parameters == {"seed": ""} and len(p.log) == 2


@pytest.mark.parametrize(("fault", "sent"), [("500", 3), ("broken JSON", 1), ("429 after 5", 1)])
def test_what_may_pass_is_a_note_after_some_attempts(fault, sent):
    with provider.serve(fault=lambda number, body: fault) as p:
        found = of(p)
    assert not found.refuses and len(p.log) == sent


def test_a_reply_that_is_all_thought_is_a_note_with_the_setting():
    with provider.serve(reply=lambda number, body: (200, THOUGHT)) as p:
        found = of(p, max_tokens=16)
    assert not found.refuses and "instructor.max_tokens = 16" in found.text


def reach(run: Run, p: provider.Provider | str, until: str | None = None, **changes: Any) -> dict[str, str]:
    run.until = until
    url = p if isinstance(p, str) else p.base_url
    return cli_run.reach(run, job(Path(run.store.where).parent, **{"instructor__base_url": url} | changes))


def test_a_runs_request_is_in_its_ledger_and_is_sent_once(tmp_path):
    run = Run(f"{tmp_path}/small", create=True)
    with provider.serve(reply=lambda number, body: NO_SEED if "seed" in body else None) as p:
        assert reach(run, p, **PRICED) == {"seed": ""}
        assert reach(run, p, **PRICED) == {}
    assert p.statuses == [422, 200]
    assert not [name for name in run.store.names() if name.startswith("iteration_")], "no stage has begun"
    spent = sum(spent_in(run, 64).values(), start=Spent())
    assert (spent.known.calls, spent.known.output, spent.unknown.calls) == (1, 10, 0)
    run.store.put_json("run.json", {"config": job(tmp_path, **PRICED).model_dump(mode="json")})
    assert facts.Iteration(run, 0).usage()["usd"] == pytest.approx(15 * 10e-6 + 10 * 30e-6)


def test_a_run_is_asked_again_where_its_server_changed_and_when_the_request_failed(tmp_path):
    run = Run(f"{tmp_path}/small", create=True)
    with provider.serve(fault=lambda number, body: "401" if number == 0 else None) as p:
        with pytest.raises(ConfigError):
            reach(run, p)
        assert sum(spent_in(run, 64).values(), start=Spent()).at_most.calls == 0, "nothing is booked for a refusal"
        reach(run, p)
        reach(run, p.listen_on(0))
    assert p.statuses == [401, 200, 200]


@pytest.mark.parametrize(
    ("until", "changes"),
    [
        ("diagnose", {}),
        (None, {"iterations": 0, "instructor__model": "none"}),
        (None, {"instructor__base_url": "lai_ray.world.tutor:serve"}),
        (None, {"limits__max_tokens": 50}),
    ],
)
def test_a_start_that_asks_no_server_sends_nothing(tmp_path, until, changes):
    with provider.serve() as p:
        assert reach(Run(f"{tmp_path}/small", create=True), p, until, **changes) == {}
    assert not p.log


def test_a_run_stops_before_its_first_evaluation_and_goes_on_with_the_name_put_right(tmp_path):
    with provider.serve(fault=lambda number, body: "404") as p:
        wrong = job(tmp_path, instructor__base_url=p.base_url, instructor__model="gtp-4")
        with pytest.raises(ConfigError, match="gtp-4"):
            cli_run.run_job(wrong)
    assert not Run.read(f"{tmp_path}/small").stores_of("evaluate/answers")
    done = cli_run.run_job(job(tmp_path, instructor__model="gpt-4"), executor=LocalExecutor())
    assert done.target is not None


def test_check_refuses_what_a_run_would_unless_told_not_to_ask(tmp_path):
    made = job(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(f"""
        storage = "{tmp_path}"
        iterations = 1
        target = {{ model = "{made.target.model}", engine = "tests.local:LocalExecutor" }}
        evaluate = {{ learn_from = ["word_problems"], report_on = ["word_problems"], max_train_problems = 20 }}
        contrast = {{ encoder = "target" }}
        cluster = {{ gpus_per_replica = 0, gpus_per_worker = 0 }}
        instructor = {{ model = "m", base_url = "http://127.0.0.1:{free_port()}/v1" }}
    """)
    refused = CliRunner().invoke(app, ["check", str(path)])
    assert refused.exit_code == 2 and "refused: no server answers" in refused.output
    assert CliRunner().invoke(app, ["check", str(path), "--no-probe"]).exit_code == 0
    assert CliRunner().invoke(app, ["check", str(path), "instructor.probe=false"]).exit_code == 0
    with provider.serve() as p:
        shown = CliRunner().invoke(app, ["check", str(path), f"instructor.base_url={p.base_url}"])
    assert shown.exit_code == 0 and "answered in" in shown.output
