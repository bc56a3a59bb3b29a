"""Samples asked for in JSON: one model a kind, enforced as far as a server goes, read through one path."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from lai_ray.benchmarks import gsm8k, mbpp, mmlu
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Retry
from lai_ray.engines.openai import OpenAIEngine
from lai_ray.instructor.provider import probe
from lai_ray.instructor.provider.parameters import body_of
from lai_ray.instructor.spending.tokens import worst_of
from lai_ray.records import Ask, Request
from lai_ray.stages.calls import Receivers
from lai_ray.stages.job import Job
from tests import drift, provider
from tests.drift_dressed import record
from tests.local import job
from tests.unit.test_drift import judged
from tests.unit.test_provider_replies import error

BENCHMARKS: dict[str, Any] = {"math": gsm8k.BENCHMARK, "choice": mmlu.BENCHMARK, "code": mbpp.BENCHMARK}


def problem(kind: drift.Kind, item: drift.Item) -> dict[str, object]:
    """An item as a server that enforces the schema writes it."""
    if kind == "math":
        return {"question": item.question, "solution": "\n".join(item.lines), "answer": item.answer}
    return record(kind, item, way="map" if kind == "choice" else "list")


@pytest.mark.parametrize("kind", drift.KINDS)
def test_whatever_the_schema_allows_is_read_whole(kind):
    structure, replies = BENCHMARKS[kind].structure(), []
    for plain in drift.replies(0, 2):
        if plain.kind == kind and not plain.cut:
            value = {"problems": [problem(kind, item) for item in plain.items]}
            jsonschema.validate(value, structure.response_format["json_schema"]["schema"])
            replies.append(replace(plain, text=json.dumps(value)))
    counts, wrong = judged(replies)
    assert (counts["read"], counts["false"]) == (counts["wanted"], 0), wrong
    assert counts["wanted"] > 300


@pytest.mark.parametrize("kind", drift.KINDS)
def test_schemas_are_strict_and_their_fields_stand_in_the_prompt(kind):
    structure = BENCHMARKS[kind].structure()
    schema = structure.response_format["json_schema"]["schema"]
    objects = [schema, *schema["$defs"].values()]
    assert all(each["additionalProperties"] is False for each in objects)
    assert all(each["required"] == list(each["properties"]) for each in objects)
    assert "default" not in json.dumps(schema)
    assert all(f'"{name}"' in structure.brief for each in objects for name in each["properties"])
    assert "JSON" in structure.brief  # Without the word, servers refuse json_object.


def call(tmp_path, format: str, benchmark: Any = gsm8k.BENCHMARK) -> Request:
    found = Job.of(job(tmp_path, instructor__format=format))
    receivers = Receivers(found, None)  # type: ignore[arg-type]
    brief = benchmark.brief() if format == "text" else benchmark.structure().brief
    ask = Ask("instructor", [{"role": "user", "content": f"Write 2 new problems.\n{brief}"}])
    structure = None if format == "text" else benchmark.structure()
    return receivers.call(ask, id="x", seed=1, structure=structure).request


def test_keys_keep_the_formats_apart_and_json_counts_in_the_budget(tmp_path):
    text, auto, asked = (call(tmp_path, format) for format in ("text", "auto", "json"))
    assert text.response_format is None and auto.response_format is not None
    assert auto.key == asked.key != text.key
    longer = worst_of(auto).input - worst_of(replace(auto, response_format=None)).input
    assert longer == len(json.dumps(auto.response_format))


def test_a_request_that_asks_for_no_samples_has_no_form(tmp_path):
    receivers = Receivers(Job.of(job(tmp_path, instructor__format="auto")), None)  # type: ignore[arg-type]
    ask = Ask("instructor", [{"role": "user", "content": "Is this right?"}])
    request = receivers.call(ask, id="x", seed=1, structure=gsm8k.BENCHMARK.structure()).request
    assert request.response_format is None


def test_strategies_see_the_form_that_the_job_asks_for(tmp_path):
    text, auto = (Job.of(job(tmp_path, instructor__format=format)) for format in ("text", "auto"))
    name = text.config.evaluate.learn_from[0]
    assert text.asked(name) is text.benchmark(name)
    assert auto.asked(name).brief() == auto.structure(name).brief != auto.benchmark(name).brief()
    assert auto.asked(name).parse("x") == [] and auto.asked(name).name == name


def refusing(*types: str):
    """A server that takes none of these types of response_format."""

    def reply(number: int, body: dict[str, Any]) -> tuple[int, Any] | None:
        sent = body.get("response_format", {}).get("type")
        return (400, error(f"This response_format type is unavailable now: {sent}")) if sent in types else None

    return reply


@pytest.mark.parametrize(("refused", "sent", "learned"), [
    ((), ["json_schema"], {}),
    (("json_schema",), ["json_schema", "json_object"], {"response_format": "json_object"}),
    (("json_schema", "json_object"), ["json_schema", "json_object", None], {"response_format": ""}),
])  # fmt: skip
def test_the_first_request_finds_out_what_a_server_enforces(refused, sent, learned, monkeypatch):
    monkeypatch.setattr(probe, "PAUSE", 0.0)
    with provider.serve(reply=refusing(*refused)) as p:
        found = probe.probe(InstructorSettings(model="m", base_url=p.base_url, format="auto"))
    assert [seen.body.get("response_format", {}).get("type") for seen in p.log] == sent
    assert found.parameters == learned
    assert not any(each.refuses for each in found.findings)
    assert len(found.findings) == len(sent)  # One note on each refusal, one on the answer.


def test_a_refusal_on_the_way_fails_no_row_and_the_next_attempt_is_answered():
    settings = InstructorSettings(model="m", base_url="http://x/v1", format="auto")
    request = replace(probe.request_of(settings), id="x")
    with provider.serve(reply=refusing("json_schema")) as p:
        first = asyncio.run(OpenAIEngine(settings, p.base_url).call(request))
        assert isinstance(first, Retry) and first.free and first.parameters == {"response_format": "json_object"}
        second = asyncio.run(OpenAIEngine(settings.taking(first.parameters), p.base_url).call(request))
    assert isinstance(second, Answered) and second.completion.error is None
    assert p.statuses == [400, 200]


def test_json_refuses_a_server_that_enforces_none_before_anything_is_paid(monkeypatch):
    monkeypatch.setattr(probe, "PAUSE", 0.0)
    with provider.serve(reply=refusing("json_schema")) as p:
        found = probe.probe(InstructorSettings(model="m", base_url=p.base_url, format="json"))
    assert [each.refuses for each in found.findings] == [True]
    assert "instructor.format" in found.findings[0].text


def test_the_text_of_a_job_is_asked_as_before():
    settings = InstructorSettings(model="m", base_url="http://127.0.0.1:1/v1")
    request = probe.request_of(settings)
    assert request.messages == [{"role": "user", "content": probe.PROMPT}]
    assert "response_format" not in body_of(request, {})


@pytest.mark.parametrize("settings", [
    {"format": "auto", "explain": True}, {"format": "json", "engine": "vllm"}, {"format": "xml"},
])  # fmt: skip
def test_what_cannot_be_asked_for_is_an_error(settings):
    with pytest.raises(ValidationError):
        InstructorSettings(model="m", **settings)
