"""The cluster files work as they are, once names are filled in. Typos in them: test_cluster_typos.py."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lai_ray.config import job_file
from lai_ray.distributed.jobs import submission
from tests.cluster_files import (
    FILL_INS,
    RAY_VERSION,
    ROOT,
    SCHEMAS,
    TELEMETRY_OFF,
    commands,
    loaded,
    of_kuberay,
    of_launcher,
    of_ray,
    of_runtime_env,
    schema,
)
from tests.schemas import cut

AWS, GCP = ROOT / "clusters/aws.yaml", ROOT / "clusters/gcp.yaml"
RAYJOB, RAYCLUSTER = ROOT / "clusters/kuberay-rayjob.yaml", ROOT / "clusters/kuberay-raycluster.yaml"
CLAIM = ROOT / "clusters/kuberay-claim.yaml"
RUNTIME_ENV = ROOT / "jobs/runtime_env.yaml"
README = ROOT / "clusters/README.md"
FILES = [*sorted((ROOT / "clusters").iterdir()), RUNTIME_ENV, ROOT / ".rayignore"]
JOBS = sorted((ROOT / "jobs").rglob("*.toml"))

KEYS = re.compile(
    r"sk-[\w-]{16,}|AKIA[0-9A-Z]{16}|hf_\w{16,}|gh[pousr]_\w{20,}|xox[abp]-\S{10,}|eyJ[\w-]{20,}|AIza[\w-]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b"
    r"|(?i:api_?key|token|secret|password)\w*[\"']?\s*[:=]\s*[\"']?(?=[^\s\"'$]*[0-9])[\w+/-]{12,}"
)
"""Shapes of the usual providers' keys, a Ray token (hexadecimal), and anything long that a name calls a secret."""


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"
WRONG: list[tuple[Path, str, Any]] = [
    # Wrong values that are no misspellings.
    (AWS, "max_workers", 9),
    (AWS, "provider.region", "us-east-1"),
    (AWS, "provider.cache_stopped_nodes", "no"),
    (AWS, "available_node_types.gpu.node_config.InstanceType", "g6e.3xlarge"),
    (AWS, "available_node_types.head.node_config.ImageId", "ami-latest"),
    (AWS, "available_node_types.head.resources", {"GPUs": 1}),
    (AWS, "available_node_types.gpu.min_workers", 1),
    (AWS, "docker.run_options", ["--env RAY_USAGE_STATS_ENABLED=0", "-v /mnt/lai:/mnt/lai"]),
    (AWS, "setup_commands", ["pip install ray"]),
    (GCP, "provider.project_id", None),
    (GCP, "provider.availability_zone", "us-west1-b"),
    (GCP, "available_node_types.gpu.node_config.scheduling", [{"preemptible": True}]),
    (GCP, "available_node_types.gpu.node_config.scheduling.provisioningModel", "PREEMPTIBLE"),
    (GCP, "available_node_types.gpu.resources", {}),
    (RAYJOB, "apiVersion", "ray.io/v1beta1"),
    (RAYJOB, "spec.ttlSecondsAfterFinished", "10m"),
    (RAYJOB, "spec.shutdownAfterJobFinishes", False),
    (RAYJOB, "spec.entrypoint", "python -m lai_ray run jobs/quickstart.toml cluster.replicas=1"),
    (RAYJOB, "spec.rayClusterSpec.authOptions.mode", "disabled"),
    (RAYJOB, "spec.rayClusterSpec.rayVersion", 2.6),
    (RAYJOB, f"{WORKER}.maxReplicas", 0),
    (RAYJOB, f"{WORKER}.rayStartParams", {"num-gpu": "1"}),
    (RAYJOB, f"{WORKER}.template.spec.containers.0.resources.limits", {"nvidia.com/gpus": "1"}),
    (RAYJOB, f"{WORKER}.template.spec.containers.0.resources.limits.memory", "32GB"),
    (RAYJOB, f"{HEAD}.containers.0.env.6", {"name": "OPENAI_API_KEY", "value": "in the open"}),
    (RAYJOB, f"{HEAD}.containers.0.env.6.valueFrom.secretKeyRef.key", "HF_TOKEN"),
    (RAYJOB, f"{HEAD}.containers.0.volumeMounts.0.name", "shred"),
    (RAYCLUSTER, "spec.enableInTreeAutoscaling", "true"),
    (RAYCLUSTER, "spec.workerGroupSpecs.0.replicas", 5),
    (CLAIM, "spec.accessModes.0", "ReadWriteOnce"),
    (RUNTIME_ENV, "excludes", "/.git/"),
    (RUNTIME_ENV, "env_vars.OPENAI_API_KEY", "in the open"),
    (RUNTIME_ENV, "working_dri", "."),
]


@pytest.mark.parametrize(("path", "place", "value"), WRONG)
def test_a_wrong_value_is_caught(path, place, value):
    content = json.loads(json.dumps(loaded(path)))
    *parts, last = place.split(".")
    there = content
    for part in parts:
        there = there[int(part) if isinstance(there, list) else part]
    there[int(last) if isinstance(there, list) else last] = value
    cloud = {AWS: "aws", GCP: "gcp"}.get(path)
    check = of_runtime_env if path == RUNTIME_ENV else of_kuberay
    assert of_launcher(content, cloud) if cloud else check(content)


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
def test_a_cut_schema_names_its_sources_their_versions_and_licence(name):
    comment = schema(f"cut/{name}")["$comment"]
    assert "cut.py" in comment and "Apache-2.0" in comment and re.search(r"[0-9]+\.[0-9]+", comment)
    assert f"Ray {RAY_VERSION}" in comment
    assert (SCHEMAS / f"cut/{name}.json").stat().st_size < 25_000, "only what validation needs"


def test_a_field_that_upstream_does_not_have_stops_the_cut():
    upstream = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}, "spec": {}}}
    with pytest.raises(SystemExit, match="Job: upstream has no knid; it has kind, spec"):
        cut.cut(upstream, cut.wanted("kind knid"), cut.as_it_is, "Job")
    with pytest.raises(SystemExit, match="Job: upstream requires kind"):
        cut.cut(upstream, cut.wanted("spec"), cut.as_it_is, "Job")
    closed = cut.cut(upstream, cut.wanted("kind"), cut.as_it_is, "Job")
    assert closed["additionalProperties"] is False and closed["properties"] == {"kind": {"type": "string"}}


def test_the_options_of_ray_start_are_those_of_the_installed_ray():
    assert sorted(schema("cut/kuberay")["$defs"]["start"]["properties"]) == cut.ray_start_options()


def test_ray_knows_every_key_that_our_runtime_environment_may_have():
    tree = ast.parse(of_ray("runtime_env/runtime_env.py").read_text())
    known = {
        kind.name: ast.literal_eval(line.value)
        for kind in tree.body
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "known_fields" and line.value
    }
    named = schema("rules/runtime_env")["properties"]
    assert set(named) <= known["RuntimeEnv"]
    assert set(named["config"]["properties"]) <= known["RuntimeEnvConfig"]


@pytest.mark.parametrize("path", [RAYJOB, RAYCLUSTER], ids=lambda path: path.name)
def test_the_gpus_are_on_the_workers_and_the_head_has_none(path):
    spec = spec_of(path)
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in str(spec["headGroupSpec"]["template"])
    with_gpu = [group["groupName"] for group in spec["workerGroupSpecs"] if "nvidia.com/gpu'" in str(group["template"])]
    assert with_gpu == ["gpu"]


def spec_of(path: Path) -> Any:
    """A RayCluster's specification, a RayJob's too."""
    spec = loaded(path)["spec"]
    return spec.get("rayClusterSpec", spec)


@pytest.mark.parametrize(("path", "spot"), [(AWS, "InstanceMarketOptions"), (GCP, "scheduling")], ids=["aws", "gcp"])
def test_the_head_is_on_demand_and_the_others_are_spot_and_scale_to_zero(path, spot):
    types = loaded(path)["available_node_types"]
    assert set(types) == {"head", "cpu", "gpu"}
    assert spot not in types["head"]["node_config"], "a head on a spot node takes the job with it"
    for name in ("cpu", "gpu"):
        assert types[name]["min_workers"] == 0
        assert "spot" in str(types[name]["node_config"][spot]).lower()
    assert loaded(path)["idle_timeout_minutes"] < 60


def test_the_permanent_kubernetes_cluster_scales_to_zero():
    assert [group["minReplicas"] for group in loaded(RAYCLUSTER)["spec"]["workerGroupSpecs"]] == [0, 0]


@pytest.mark.parametrize("path", [RAYJOB, RAYCLUSTER], ids=lambda path: path.name)
def test_pods_mount_the_claim(path):
    for group in [spec_of(path)["headGroupSpec"], *spec_of(path)["workerGroupSpecs"]]:
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == loaded(CLAIM)["metadata"]["name"]


def test_every_file_names_the_version_of_ray_that_was_tested():
    package = (ROOT / "pyproject.toml").read_text()
    assert f'"ray[data,default,train,tune]>={RAY_VERSION.rpartition(".")[0]}"' in package, "the lowest, and no ceiling"
    for path in (RAYJOB, RAYCLUSTER):
        assert spec_of(path)["rayVersion"] == RAY_VERSION
    for kind in ("cpu", "gpu"):
        text = (ROOT / f"clusters/Dockerfile.{kind}").read_text()
        assert f"\nFROM rayproject/ray:{RAY_VERSION}-py311-{kind} AS packages\n" in text
        assert f"'{RAY_VERSION}'" in text
        assert f"\nray=={RAY_VERSION}\n" in (ROOT / f"requirements/{kind}.txt").read_text()


def test_the_lock_of_a_gpu_node_has_the_package_s_own_pins_and_no_address():
    text = (ROOT / "requirements/gpu.txt").read_text()
    pins = re.search(r"^gpu = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert pins
    assert set(ast.literal_eval(f"[{pins[1]}]")) <= set(text.splitlines())
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    assert {line.partition("==")[0] for line in lines} >= {"boto3", "google-api-python-client", "nvidia-nccl-cu13"}


@pytest.mark.parametrize("path", [AWS, GCP, RAYJOB, RUNTIME_ENV, README], ids=lambda path: path.name)
def test_the_entrypoint_names_a_job_that_exists_and_settings_that_it_has(path):
    found = commands(path)
    assert found
    for job, *overrides in found:
        assert job_file.read(ROOT / job, overrides).storage.startswith("/"), (
            "a relative path is another folder on a node"
        )


@pytest.mark.parametrize("path", [AWS, GCP, RAYJOB, README], ids=lambda path: path.name)
def test_the_entrypoint_is_what_lai_submit_would_run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for job, *overrides in commands(path):
        words = ["python", "-m", "lai_ray", "run", job, *overrides]
        assert list(submission.of(Path(job), overrides).words) == words


@pytest.mark.parametrize("path", [AWS, GCP, RAYJOB], ids=lambda path: path.name)
def test_the_storage_of_the_entrypoint_is_on_the_disk_that_every_node_mounts(path):
    storage = {job_file.read(ROOT / job, overrides).storage for job, *overrides in commands(path)}
    assert storage == {"/mnt/lai/runs"}
    if path != RAYJOB:
        assert "-v /mnt/lai:/mnt/lai" in loaded(path)["docker"]["run_options"]


CLOUDS = {
    "boto3.py": """
class client:
    def __init__(self, service, region_name): assert (service, region_name) == ("secretsmanager", "us-west-2")
    def get_secret_value(self, SecretId): return {SecretId: {"SecretString": "the key"}}["FILL_IN_SECRET_NAME"]
""",
    "google/__init__.py": "",
    "google/auth/__init__.py": "def default(scopes): return 'credentials', 'project'",
    "google/auth/transport/__init__.py": "",
    "google/auth/transport/requests.py": """
class AuthorizedSession:
    def __init__(self, credentials): assert credentials == "credentials"
    def get(self, url):
        assert url.endswith(".com/v1/projects/FILL_IN_PROJECT/secrets/FILL_IN_SECRET_NAME/versions/latest:access")
        return self
    def raise_for_status(self): pass
    def json(self): return {"payload": {"data": "dGhlIGtleQ=="}}
""",
}
"""Stubs of the clouds' clients that the start commands call; an empty file is one that cannot be reached."""


@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
@pytest.mark.parametrize("reached", [True, False], ids=["reached", "not_reached"])
def test_ray_is_started_with_the_key_of_the_secret_or_without_one(path, reached, tmp_path):
    for name, text in CLOUDS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text if reached else "")
    for name, text in (("ray", 'echo "$1 $2 with <$OPENAI_API_KEY>"'), ("python", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path), "RAY_HEAD_IP": "10.0.0.1"}
    key = "the key" if reached else ""
    for when, options in (("head", "start --head"), ("worker", "start --address=10.0.0.1:6379")):
        command = loaded(path)[f"{when}_start_ray_commands"][1]
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
        assert done.stdout == f"{options} with <{key}>\n"
        assert reached == (done.stderr == "")


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_a_token_is_required_and_telemetry_is_off(path):
    assert {"--env RAY_AUTH_MODE=token", "--env RAY_USAGE_STATS_ENABLED=0"} <= set(
        loaded(path)["docker"]["run_options"]
    )
    assert loaded(RUNTIME_ENV)["env_vars"].items() >= TELEMETRY_OFF.items()


@pytest.mark.parametrize("path", [*FILES, *JOBS], ids=lambda path: path.name)
def test_a_file_holds_nothing_that_looks_like_a_key(path):
    assert not KEYS.findall(path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "value: sk-proj-" + "a1B2" * 8,
        "OPENAI_API_KEY=" + "plainold123456",
        "AWS: AKIA" + "IOSFODNN7EXAMPLE"[:16],
        "HF_TOKEN: hf_" + "x" * 30,
        "RAY_AUTH_TOKEN: " + "0123456789abcdef" * 2,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
)
def test_a_planted_key_is_found(line):
    assert KEYS.search(line)


def test_the_name_of_a_key_is_not_a_key():
    assert not KEYS.search("- name: OPENAI_API_KEY\n  valueFrom: {secretKeyRef: {name: lai-secrets, key: HF_TOKEN}}")
    assert not KEYS.search('export OPENAI_API_KEY="$(python -c "import boto3; ...")"')


def test_what_only_the_user_knows_is_marked_and_the_readme_explains_every_mark():
    marked = {
        word for path in FILES if path.suffix == ".yaml" for word in re.findall(r"FILL_IN_[A-Z_]+", path.read_text())
    }
    assert marked == FILL_INS
    readme = README.read_text()
    assert "grep -n FILL_IN" in readme
    assert [word for word in sorted(marked) if f"`{word}`" not in readme] == []


def test_nothing_heavy_or_secret_is_uploaded_with_the_code():
    lines = set((ROOT / ".rayignore").read_text().splitlines())
    assert {"/runs/", ".venv/", "/.git/", "/build/", "/shared/", ".env", "*.pem", "auth_token"} <= lines


def test_what_a_job_needs_is_uploaded():
    ignored = [line for line in (ROOT / ".rayignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = ["lai_ray", "jobs", "pyproject.toml", "student", "*.safetensors", "*.jsonl", "*.toml", "prompts"]
    assert not [line for line in ignored if line.strip("/") in kept]
