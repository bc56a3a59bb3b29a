"""The user's environment: what is in the way of a run is gone around, or named with its variable and value."""

from __future__ import annotations

import asyncio
import http.server
import importlib
import io
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from rich.console import Console

from lai_ray.cli import doctor
from lai_ray.common import plugins, proxies, search_path
from lai_ray.config.settings import InstructorSettings
from lai_ray.distributed import connect, ray_token, temporary
from lai_ray.engines import openai
from lai_ray.errors import ConfigError
from lai_ray.records import Request
from tests.conftest import REPO
from tests.local import job

DEEP = "people/of/a/large/institute/their/job/folders/0000123456/step.batch/scratch/for/temporary/files"
NAMES = [name for each in (*proxies.VARIABLES, "no_proxy") for name in (each, each.upper())]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Without proxies and temporary folders of this shell; every change of the test is undone."""
    for name in (*NAMES, "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "x")  # So that what the code sets is undone too.
        monkeypatch.delenv(name)


def settings(**changes: object) -> InstructorSettings:
    return InstructorSettings.model_validate({"model": "m", **changes})


# Proxies.


@pytest.mark.parametrize("variable", [*proxies.VARIABLES, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://localhost/v1", "http://[::1]:80", "http://127.8.0.1"])
def test_no_proxy_is_between_this_machine_and_itself(monkeypatch, variable, url):
    monkeypatch.setenv(variable, "socks://127.0.0.1:9/")
    assert proxies.of(url) is None
    proxies.check(url)


@pytest.mark.parametrize(("form", "other"), [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")])
def test_this_machine_is_added_to_what_no_proxy_lists(monkeypatch, form, other):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv(form, "intranet.example, 10.0.0.0/8")
    proxies.spare_local()
    listed = os.environ[form].split(",")
    assert listed == os.environ[other].split(",")
    assert listed[:2] == ["intranet.example", "10.0.0.0/8"] and {"127.0.0.1", "localhost", "::1"} <= set(listed)
    proxies.spare_local()
    assert os.environ[form].split(",") == listed


def test_without_a_proxy_the_environment_stays_as_it_is():
    proxies.spare_local()
    assert not {"no_proxy", "NO_PROXY"} & set(os.environ)


def test_a_server_elsewhere_is_reached_through_the_proxy_of_its_scheme(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://one:1080")
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:secret@two:3128")
    assert proxies.of("https://models.example/v1") == proxies.Proxy("HTTPS_PROXY", "http://someone:secret@two:3128")
    assert str(proxies.of("https://models.example/v1")) == "HTTPS_PROXY=http://two:3128"
    assert proxies.of("http://models.example/v1") == proxies.Proxy("all_proxy", "socks5://one:1080")
    monkeypatch.setenv("no_proxy", ".example,10.0.0.0/8")
    assert proxies.of("https://models.example/v1") is proxies.of("http://10.1.2.3:8000/v1") is None
    assert proxies.of("http://11.1.2.3:8000/v1") is not None


@pytest.mark.parametrize(
    ("value", "advice"),
    [("socks5://127.0.0.1:9", "pip install socksio"), ("socks://127.0.0.1:9", "socks5://HOST:PORT")],
)
def test_a_proxy_that_cannot_be_used_is_named_before_anything_starts(monkeypatch, value, advice):
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(ConfigError) as raised:
        openai.check(settings(base_url="http://models.example/v1"))
    assert f"ALL_PROXY={value}" in str(raised.value) and advice in str(raised.value)
    openai.check(settings(base_url="http://127.0.0.1:9/v1"))
    openai.check(settings(base_url="lai_ray.world.tutor:serve"))


class Server(http.server.BaseHTTPRequestHandler):
    """Answers every chat completion."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        reply = {"choices": [{"message": {"content": "here"}, "finish_reason": "stop"}]}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/v1"
        serving.shutdown()


def called(base_url: str):
    async def call():
        engine = openai.OpenAIEngine(settings(base_url=base_url, timeout=20), base_url)
        return await engine.call(Request("q#0", "0" * 32, [{"role": "user", "content": "?"}], max_tokens=5))

    return asyncio.run(call())


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9/", "http://127.0.0.1:9", "127.0.0.1:9"])
def test_a_server_on_this_machine_answers_whatever_proxy_is_set(monkeypatch, server, proxy):
    for variable in ("ALL_PROXY", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, proxy)
    outcome = called(server)
    assert outcome.completion.text == "here"


def test_a_proxy_that_does_not_answer_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://someone:secret@127.0.0.1:9")
    outcome = called("http://models.example/v1")
    assert "HTTP_PROXY=http://127.0.0.1:9" in outcome.why and "secret" not in outcome.why
    assert not outcome.reached


# The temporary folder.


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_deep_for_sockets_is_reached_through_a_short_link(monkeypatch, tmp_path, variable):
    deep = tmp_path / DEEP
    deep.mkdir(parents=True)
    monkeypatch.setenv(variable, str(deep))
    temporary.shorten()
    short = os.environ[variable]
    assert len(short) <= temporary.LONGEST and os.path.realpath(short) == str(deep)
    if variable == "TMPDIR":
        assert "RAY_TMPDIR" not in os.environ


def test_a_short_folder_stays(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    temporary.shorten()
    assert os.environ["TMPDIR"] == "/tmp"


def test_a_folder_that_is_not_there_or_full_is_replaced_with_a_warning(monkeypatch, tmp_path, caplog, small_disk):
    for folder, why in ((tmp_path / "gone", "no such folder"), (small_disk, "MiB are free")):
        monkeypatch.setenv("TMPDIR", str(folder))
        temporary.shorten()
        assert os.environ["TMPDIR"] in temporary.PLACES
        assert f"TMPDIR={folder} cannot be used" in caplog.text and why in caplog.text


def test_a_folder_mounted_noexec_is_replaced_unless_the_compiler_has_one_of_its_own(monkeypatch, tmp_path, caplog):
    real = os.statvfs

    def statvfs(path):
        found = real(path)
        flags = found.f_flag | os.ST_NOEXEC if str(path) == str(tmp_path) else found.f_flag & ~os.ST_NOEXEC
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
        return types.SimpleNamespace(**fields | {"f_flag": flags})

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    temporary.shorten()
    assert os.environ["TMPDIR"] in temporary.PLACES and "noexec" in caplog.text
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/var/tmp")
    assert temporary.problem(str(tmp_path)) is None


def test_where_the_home_folder_cannot_be_written_a_cluster_gets_a_token_of_its_own(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ray_token.make_without_home()
    assert "RAY_AUTH_TOKEN" not in os.environ  # Ray writes its own there.
    monkeypatch.setenv("HOME", "/proc/nowhere")
    ray_token.make_without_home()
    made = os.environ["RAY_AUTH_TOKEN"]
    assert len(made) == 64
    ray_token.make_without_home()
    assert os.environ["RAY_AUTH_TOKEN"] == made


def test_where_nothing_can_be_written_the_error_names_variable_value_and_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(temporary, "PLACES", (str(tmp_path / "one"), str(tmp_path / "two")))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(ConfigError) as raised:
        temporary.shorten()
    assert f"TMPDIR={tmp_path}/gone" in str(raised.value) and f"at most {temporary.LONGEST} bytes" in str(raised.value)


def test_rays_folder_is_made_where_it_can_be(monkeypatch):
    folder = Path(temporary.private()) / "mine"
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    temporary.shorten()
    assert os.environ["RAY_TMPDIR"] == str(folder) and folder.is_dir()


# The search path.

SHADOWS = ("code.py", "h2.py", "random.py", "queue.py", "test.py", "ray.py", "numpy.py", "datasets.py", "rich.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with files that are named like modules, and a plug-in that needs the real ones."""
    for name in SHADOWS:
        (tmp_path / name).write_text("raise RuntimeError('a file of the user')\n")
    for name in ("datasets", "evaluate"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.py").write_text(
        "import code, queue, random\nimport rich\nfrom lai_ray.benchmarks.gsm8k import BENCHMARK\n"
    )
    (tmp_path / "in.jsonl").write_text('{"question": "2?", "answer": "#### 2", "response": "#### 2"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [f"{REPO}", f":{REPO}", f".:{REPO}"])
def test_files_named_like_modules_do_not_hide_them(folder, path):
    command = [sys.executable, "-m", "lai_ray", "grade", "own:BENCHMARK", "--responses", "in.jsonl", "--out", "o.jsonl"]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert '"correct": true' in Path("o.jsonl").read_text()


def test_only_the_user_finds_files_of_the_current_folder(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(folder), "/elsewhere", *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for _ in range(2):
        search_path.user_folder_last()
    assert sys.path[0] == "/elsewhere" and str(folder) not in sys.path
    assert sum(isinstance(finder, search_path.UserFolder) for finder in sys.meta_path) == 1
    (folder / "helper_of_mine.py").write_text("LEVEL = 3\n")
    (folder / "asks_for_helper.py").write_text("def level():\n    from helper_of_mine import LEVEL\n    return LEVEL\n")
    # An optional package that is not there, as a library tries: the user's file is not it.
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("helper_of_mine")
    assert plugins.attribute("asks_for_helper:level", what="engine")() == 3
    assert set(search_path.for_workers()[search_path.MODULES].split(",")) >= {"asks_for_helper", "helper_of_mine"}
    monkeypatch.delitem(sys.modules, "helper_of_mine")
    monkeypatch.setenv(search_path.MODULES, "helper_of_mine")
    search_path.user_folder_last()
    assert importlib.import_module("helper_of_mine").LEVEL == 3


def test_child_processes_do_not_begin_with_the_current_folder(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":{folder}:/elsewhere:.")
    assert search_path.for_children("/package") == {"PYTHONPATH": "/package:/elsewhere", "PYTHONSAFEPATH": "1"}
    child = "import code, random, queue, sys; print(code.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", child],
        env=os.environ | search_path.for_children(str(REPO)),
        capture_output=True,
        text=True,
    )
    assert where.returncode == 0 and str(folder) not in where.stdout


def test_a_library_installed_below_the_users_folder_finds_no_file_of_the_user(monkeypatch, tmp_path):
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "tries_an_option.py").write_text("try:\n    import only_mine\nexcept ImportError:\n    only_mine = None\n")
    (tmp_path / "only_mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    search_path.user_folder_last()
    assert importlib.import_module("tries_an_option").only_mine is None


def test_from_a_checkout_workers_get_the_package_without_the_files_beside_it(monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    paths = connect.worker_environment(job(tmp_path), connect.package_alone())["PYTHONPATH"].split(":")
    assert os.listdir(paths[0]) == ["lai_ray"] and os.path.samefile(f"{paths[0]}/lai_ray", REPO / "lai_ray")
    assert str(REPO) not in paths


def test_a_module_on_pythonpath_that_hides_an_installed_one_is_named(monkeypatch, tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("")
    (tmp_path / "queue.py").write_text("")
    (tmp_path / "my_tools.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert [name for _, name in search_path.hiding()] == ["numpy", "queue"]
    found = [finding for finding in doctor.findings() if finding.what == "PYTHONPATH"]
    assert [finding.found for finding in found] == [f"{tmp_path}/numpy", f"{tmp_path}/queue.py"]
    assert all(finding.advice for finding in found)


def test_a_plug_in_named_like_a_module_is_told_so(folder):
    with pytest.raises(ConfigError) as raised:
        plugins.attribute("code:BENCHMARK", what="evaluate.report_on")
    assert f"hides {folder}/code.py" in str(raised.value)


# Terminals.


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "40"},
    ],
)  # fmt: skip
def test_a_check_is_shown_on_every_terminal(environment):
    done = subprocess.run(
        [sys.executable, "-m", "lai_ray", "check", "jobs/quickstart.toml"], cwd=REPO, env=os.environ | environment,
        capture_output=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"quickstart" in done.stdout and b"Traceback" not in done.stderr


def test_doctor_contradicts_itself_nowhere():
    out = io.StringIO()
    doctor.show(Console(file=out, width=200))
    rows = [finding for finding in doctor.findings() if finding.found == "not installed"]
    assert all(finding.advice for finding in rows)
    shown = out.getvalue()
    assert all(word in shown for word in ("lai-ray", "cores", "GPUs", "temporary folder"))
