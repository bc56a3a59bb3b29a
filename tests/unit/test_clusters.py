"""The cluster files work as they are, once names are filled in: every typo that a schema can see is seen here."""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lai_ray import jobfile

ROOT = Path(__file__).parents[2]
AWS = ROOT / "clusters/aws.yaml"
RAYJOB = ROOT / "clusters/kuberay-rayjob.yaml"
RUNTIME_ENV = ROOT / "jobs/runtime_env.yaml"
README = ROOT / "clusters/README.md"
FILES = [AWS, RAYJOB, RUNTIME_ENV, README, ROOT / ".rayignore", *sorted((ROOT / "clusters").glob("Dockerfile.*"))]
JOBS = sorted((ROOT / "jobs").glob("*.toml"))
RAY_VERSION = "2.60.0"

KEYS = re.compile(
    r"sk-[\w-]{16,}|AKIA[0-9A-Z]{16}|hf_\w{16,}|gh[pousr]_\w{20,}|xox[abp]-\S{10,}|eyJ[\w-]{20,}|AIza[\w-]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b"
    r"|(?i:api_?key|token|secret|password)\w*[\"']?\s*[:=]\s*[\"']?(?=[^\s\"'$]*[0-9])[\w+/-]{12,}"
)
"""Shapes of the usual providers' keys, a Ray token (hexadecimal), and anything long that a name calls a secret."""


@functools.cache
def ours(name: str) -> dict[str, Any]:
    """One of our own schemas: strict where Ray's and Kubernetes' let a typo pass."""
    schema: dict[str, Any] = json.loads((ROOT / f"tests/schemas/{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@functools.cache
def of_ray(path: str) -> Path:
    """A file of the installed Ray, found without the second that importing Ray takes."""
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / path


def problems(content: Any, schema: dict[str, Any]) -> list[str]:
    """What a schema finds wrong, each with its place."""
    errors = jsonschema.validators.validator_for(schema)(schema).iter_errors(content)
    return [f"{error.json_path}: {error.message}" for error in errors]


def aws_problems(cluster: dict[str, Any]) -> list[str]:
    """Ray's own schema, ours, and what no schema can say: the node types that are named exist."""
    rays = json.loads(of_ray("autoscaler/ray-schema.json").read_text())
    found = problems(cluster, rays) + problems(cluster, ours("aws"))
    if cluster.get("head_node_type") not in cluster.get("available_node_types", {}):
        found.append(f"head_node_type: {cluster.get('head_node_type')!r} is not one of available_node_types")
    return found


def rayjob_problems(job: dict[str, Any]) -> list[str]:
    """Our schema, and what it cannot say: every volume that is mounted exists, replicas lie between their bounds."""
    found = problems(job, ours("rayjob"))
    if found:
        return found
    spec = job["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        there = {volume["name"] for volume in pod.get("volumes", [])}
        wanted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        found += [f"volume {name!r} is mounted and not there" for name in wanted - there]
    for group in spec["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"group {group['groupName']}: replicas outside minReplicas and maxReplicas")
    return found


def runtime_env_problems(environment: dict[str, Any]) -> list[str]:
    """Our schema: Ray only warns of a key that it does not know."""
    return problems(environment, ours("runtime_env"))


CHECKS = {AWS: aws_problems, RAYJOB: rayjob_problems, RUNTIME_ENV: runtime_env_problems}


@functools.cache
def loaded(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.name)
def test_a_file_has_no_typo(path):
    assert CHECKS[path](loaded(path)) == []


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"
TYPOS: list[tuple[Path, str, Any]] = [
    # A key that changes its name, "old -> new" at a place; or a value that replaces the one at a place.
    (AWS, "max_workers -> max_worker", None),
    (AWS, "max_workers", -1),
    (AWS, "provider.region -> regoin", None),
    (AWS, "provider.region", "us-west2"),
    (AWS, "provider.type", "awz"),
    (AWS, "provider.availability_zone -> availability_zones", None),
    (AWS, "provider.cache_stopped_nodes", "no"),
    (AWS, "head_node_type", "haed"),
    (AWS, "available_node_types.gpu.node_config.InstanceType -> InstanceTyp", None),
    (AWS, "available_node_types.gpu.node_config.InstanceMarketOptions -> InstanceMarketOption", None),
    (AWS, "available_node_types.gpu.node_config.InstanceMarketOptions.MarketType", "spto"),
    (AWS, "available_node_types.gpu.node_config.BlockDeviceMappings.0.Ebs.VolumeSize -> Size", None),
    (AWS, "available_node_types.head.node_config.ImageId", "ami-latest"),
    (AWS, "available_node_types.head.node_config.IamInstanceProfile.Arn -> ARN", None),
    (AWS, "available_node_types.head.resources", {"GPUs": 1}),
    (AWS, "available_node_types.gpu.min_workers -> min_worker", None),
    (AWS, "docker.run_options", ["--envRAY_AUTH_MODE=token", "-privileged"]),
    (AWS, "docker.image -> images", None),
    (AWS, "setup_commands -> setup_command", None),
    (RAYJOB, "kind", "RayJobs"),
    (RAYJOB, "apiVersion", "ray.io/v1beta1"),
    (RAYJOB, "spec.shutdownAfterJobFinishes -> shutdownAfterJobFinish", None),
    (RAYJOB, "spec.ttlSecondsAfterFinished", "10m"),
    (RAYJOB, "spec.backoffLimit -> backOffLimit", None),
    (RAYJOB, "spec.rayClusterSpec.authOptions.mode", "tokens"),
    (RAYJOB, "spec.rayClusterSpec.rayVersion", 2.6),
    (RAYJOB, "spec.rayClusterSpec.workerGroupSpecs -> workerGroupSpec", None),
    (RAYJOB, f"{WORKER}.minReplicas -> minReplica", None),
    (RAYJOB, f"{WORKER}.maxReplicas", 0),
    (RAYJOB, f"{WORKER}.rayStartParams", {"num-gpu": "1"}),
    (RAYJOB, f"{WORKER}.template.spec.tolerations.0.effect", "NoSchedul"),
    (RAYJOB, f"{WORKER}.template.spec.containers.0.resources.limits", {"nvidia.com/gpus": "1"}),
    (RAYJOB, f"{WORKER}.template.spec.containers.0.resources.limits", {"memory": "32GB"}),
    (RAYJOB, f"{HEAD}.containers -> container", None),
    (RAYJOB, f"{HEAD}.containers.0.env.1.valueFrom.secretKeyRef.key -> keys", None),
    (RAYJOB, f"{HEAD}.containers.0.env.1", {"name": "OPENAI_API_KEY", "value": "in the open"}),
    (RAYJOB, f"{HEAD}.containers.0.volumeMounts.0.name", "shred"),
    (RAYJOB, f"{HEAD}.containers.0.volumeMounts.0.mountPath -> mountpath", None),
    (RAYJOB, f"{HEAD}.volumes.0.persistentVolumeClaim.claimName -> claim", None),
    (RUNTIME_ENV, "excludes -> exclude", None),
    (RUNTIME_ENV, "env_vars -> env_var", None),
    (RUNTIME_ENV, "excludes", "/.git/"),
    (RUNTIME_ENV, "env_vars.DO_NOT_TRACK", 1),
    (RUNTIME_ENV, "env_vars.DO_NOT_TRACK -> OPENAI_API_KEY", None),
    (RUNTIME_ENV, "working_dri", "."),
]


def planted(content: Any, typo: str, value: Any) -> Any:
    """A copy with one typo in it."""
    content = copy.deepcopy(content)
    place, _, new = typo.partition(" -> ")
    *path, last = place.split(".")
    there = content
    for part in path:
        there = there[int(part) if isinstance(there, list) else part]
    if isinstance(there, list):
        there[int(last)] = value
    elif new:
        there[new] = there.pop(last)
    else:
        there[last] = value
    return content


@pytest.mark.parametrize(("path", "typo", "value"), TYPOS)
def test_a_planted_typo_is_caught(path, typo, value):
    assert CHECKS[path](planted(loaded(path), typo, value))


def test_every_key_that_our_runtime_environment_may_have_is_one_that_ray_knows():
    tree = ast.parse(of_ray("runtime_env/runtime_env.py").read_text())
    known = {
        kind.name: ast.literal_eval(line.value)
        for kind in tree.body
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "known_fields" and line.value
    }
    schema = ours("runtime_env")["properties"]
    assert set(schema) <= known["RuntimeEnv"]
    assert set(schema["config"]["properties"]) <= known["RuntimeEnvConfig"]


def test_the_claim_of_the_readme_can_be_written_by_every_node():
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.DOTALL)
    claim = yaml.safe_load(block)
    assert problems(claim, ours("claim")) == []
    assert problems(planted(claim, "spec.accessModes -> accessMode", None), ours("claim"))
    assert problems(planted(claim, "spec.accessModes.0", "ReadWriteOnce"), ours("claim"))


def test_the_gpus_are_on_the_workers_and_the_head_has_none():
    spec = loaded(RAYJOB)["spec"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in str(spec["headGroupSpec"]["template"])
    assert all("nvidia.com/gpu" in str(group["template"]["spec"]["containers"]) for group in spec["workerGroupSpecs"])
    types = loaded(AWS)["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"], "a head on a spot node takes the job with it"
    assert types["gpu"]["min_workers"] == 0, "GPU nodes scale to zero"


def test_every_file_speaks_of_the_ray_that_the_package_wants():
    assert f"ray[data,default,train,tune]>={RAY_VERSION.rpartition('.')[0]}," in (ROOT / "pyproject.toml").read_text()
    assert loaded(RAYJOB)["spec"]["rayClusterSpec"]["rayVersion"] == RAY_VERSION
    for image in ("cpu", "gpu"):
        text = (ROOT / f"clusters/Dockerfile.{image}").read_text()
        assert f"\nFROM rayproject/ray:{RAY_VERSION}-py311-{image}\n" in text
        assert f"'{RAY_VERSION}'" in text


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_what_an_image_copies_is_there_and_its_instructions_are_dockers(image):
    text = (ROOT / f"clusters/Dockerfile.{image}").read_text()
    copied = [line.split()[2:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []
    instructions = {line.split()[0] for line in text.splitlines() if re.match(r"[A-Za-z]", line)}
    assert instructions <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV"}


def commands(path: Path) -> list[list[str]]:
    """Every `python -m lai_ray run` of a file as its words, comment signs and continued lines undone."""
    text = loaded(path)["spec"]["entrypoint"] if path == RAYJOB else path.read_text()
    text = re.sub(r"\s*\\\n[#\s]*", " ", text)
    found = [shlex.split(line)[4:] for line in re.findall(r"python -m lai_ray run (?!jobs/<).*", text)]
    return [[re.sub(r"^storage=\$PWD/", "storage=/", word) for word in words] for words in found]


@pytest.mark.parametrize("path", [AWS, RAYJOB, RUNTIME_ENV, README], ids=lambda path: path.name)
def test_the_entrypoint_names_a_job_that_exists_and_settings_that_it_has(path):
    found = commands(path)
    assert found
    for job, *overrides in found:
        assert jobfile.read(ROOT / job, overrides).storage.startswith("/"), (
            "a relative path is another folder on a node"
        )


@pytest.mark.parametrize("path", [AWS, RAYJOB], ids=lambda path: path.name)
def test_the_storage_of_the_entrypoint_is_on_the_disk_that_every_node_mounts(path):
    storage = {jobfile.read(ROOT / job, overrides).storage for job, *overrides in commands(path)}
    assert storage == {"/mnt/lai/runs"}
    if path == AWS:
        assert "-v /mnt/lai:/mnt/lai" in loaded(AWS)["docker"]["run_options"]
        return
    spec = loaded(RAYJOB)["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert "/mnt/lai" in [mount["mountPath"] for mount in container["volumeMounts"]]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_file_can_be_read(path):
    assert jobfile.read(path).evaluate.learn_from


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


@pytest.mark.parametrize("path", [AWS, RAYJOB], ids=lambda path: path.name)
def test_what_only_the_user_can_know_is_marked_and_the_readme_says_how_to_find_it(path):
    assert "FILL_IN" in path.read_text()
    assert "grep -n FILL_IN" in README.read_text()


def test_nothing_heavy_or_secret_is_uploaded_with_the_code():
    lines = set((ROOT / ".rayignore").read_text().splitlines())
    assert {"/runs/", ".venv/", "/.git/", "/build/", "/shared/", ".env", "*.pem", "auth_token"} <= lines


def test_what_a_job_needs_is_uploaded():
    ignored = [line for line in (ROOT / ".rayignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = ["lai_ray", "jobs", "pyproject.toml", "student", "*.safetensors", "*.jsonl", "*.toml", "prompts"]
    assert not [line for line in ignored if line.strip("/") in kept]
