"""What is wrong with a file of clusters/ or jobs/, each with its place.  a file's content -> sentences

Three layers: the schema that Ray ships, those cut from upstream (tests/schemas/cut), and our own rules for values
(tests/schemas/rules); then what no schema can say. A new file under clusters/ or jobs/ without a checker fails a test.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from lai_ray.cli.sweep import file as sweepfile
from lai_ray.common import plugins
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError
from lai_ray.stages.job import Job

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "tests/schemas"
RAY_VERSION = "2.60.0"
TELEMETRY_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
FILL_INS = {
    "FILL_IN_AMI", "FILL_IN_EFS_DNS_NAME", "FILL_IN_FILESTORE_IP", "FILL_IN_FILESTORE_SHARE", "FILL_IN_IMAGE",
    "FILL_IN_INSTANCE_PROFILE_ARN", "FILL_IN_PROJECT", "FILL_IN_REGISTRY", "FILL_IN_REGISTRY_HOST",
    "FILL_IN_SECRET_NAME", "FILL_IN_SERVICE_ACCOUNT_EMAIL", "FILL_IN_STORAGE_CLASS",
}  # fmt: skip
"""What only the user can know."""
PYTHON = re.compile(r"python -c \"([^\"]*)\"")
"""A program inside a shell command."""


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """One of tests/schemas, itself checked."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@functools.cache
def of_ray(path: str) -> Path:
    """A file of the installed Ray, found without the second that importing Ray takes."""
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / path


@functools.cache
def rays_schema() -> dict[str, Any]:
    """Ray's own for launcher files."""
    found: dict[str, Any] = json.loads(of_ray("autoscaler/ray-schema.json").read_text())
    return found


def problems(content: Any, against: dict[str, Any]) -> list[str]:
    """What a schema finds wrong, each with its place."""
    errors = jsonschema.validators.validator_for(against)(against).iter_errors(content)
    return [f"{error.json_path}: {error.message}" for error in errors]


@functools.cache
def loaded(path: Path) -> Any:
    """A YAML file's content; what two places share by an anchor is two copies."""
    return json.loads(json.dumps(yaml.safe_load(path.read_text())))


def to_fill_in(content: Any) -> list[str]:
    """Words to fill in that are none of ours, or have lost their beginning."""
    words = set(re.findall(r"[A-Za-z]+(?:_[A-Za-z]+)+", json.dumps(content)))
    wrong = sorted(word for word in words if ("FILL" in word or "_IN_" in word) and word not in FILL_INS)
    return [f"$: {word} is none of the words to fill in" for word in wrong]


def of_launcher(cluster: dict[str, Any], kind: str) -> list[str]:
    """A file for `ray up` on one cloud."""
    found = problems(cluster, rays_schema())
    for name in (f"cut/{kind}", "rules/launcher", f"rules/{kind}"):
        found += problems(cluster, schema(name))
    found += to_fill_in(cluster)
    if found:
        return found
    types, head = cluster["available_node_types"], cluster["head_node_type"]
    if head not in types:
        return [f"$.available_node_types: has {', '.join(types)}, not the head_node_type {head!r}"]
    most = sum(each.get("max_workers", 0) for each in types.values())
    if cluster["max_workers"] > most:
        found.append(f"$.max_workers: {cluster['max_workers']} are more than the {most} of all node types")
    zones = cluster["provider"]["availability_zone"].split(",")
    if not all(zone.startswith(cluster["provider"]["region"]) for zone in zones):
        found.append("$.provider.availability_zone: not in the region")
    for when in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for i, command in enumerate(cluster[when]):
            found += [f"$.{when}[{i}]: {wrong}" for wrong in of_shell(command, cluster["provider"]["region"])]
    return found


def of_shell(command: str, region: str) -> list[str]:
    """Shell and the Python in it parse, options of `ray start` exist, and the region is the cluster's."""
    found = []
    parsed = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    if parsed.returncode:
        found.append(parsed.stderr.strip())
    for program in PYTHON.findall(command):
        try:
            ast.parse(program)
        except SyntaxError as error:
            found.append(f"Python: {error}")
    known = schema("cut/kuberay")["$defs"]["start"]["properties"]
    for started in re.findall(r"\bray start\b[^;]*", command):
        named = re.findall(r"--([\w-]+)", started)
        found += [f"ray start has no --{name}" for name in named if name not in known]
    elsewhere = [name for name in re.findall(r"\b[a-z]{2}-[a-z]+-[0-9]\b", command) if name != region]
    return found + [f"{name} is not the cluster's region" for name in elsewhere]


def of_kuberay(content: dict[str, Any]) -> list[str]:
    """A RayJob, a RayCluster or the claim that they mount."""
    kind = content.get("kind")
    kinds = ("RayCluster", "RayJob", "PersistentVolumeClaim")
    if kind not in kinds:
        return [f"$.kind: {kind!r} is none of {', '.join(kinds)}"]
    found = []
    for name in ("cut/kuberay", "rules/kuberay"):
        whole = schema(name)
        found += problems(content, {**whole, "$ref": f"#/$defs/{kind}"})
    found += to_fill_in(content)
    if found or kind == "PersistentVolumeClaim":
        return found
    where, spec = "$.spec", content["spec"]
    if kind == "RayJob":
        found += [f"$.spec.entrypoint: {wrong}" for wrong in of_command(spec["entrypoint"])]
        where, spec = "$.spec.rayClusterSpec", spec["rayClusterSpec"]
    for i, group in enumerate(spec["workerGroupSpecs"]):
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{where}.workerGroupSpecs[{i}].replicas: outside minReplicas and maxReplicas")
    places = [
        f"{where}.headGroupSpec",
        *(f"{where}.workerGroupSpecs[{i}]" for i in range(len(spec["workerGroupSpecs"]))),
    ]
    for place, group in zip(places, [spec["headGroupSpec"], *spec["workerGroupSpecs"]], strict=True):
        found += [f"{place}.template.spec.{wrong}" for wrong in of_pod(group["template"]["spec"])]
    return found


def of_command(line: str) -> list[str]:
    """`python -m lai_ray run JOB key=value…`: a job that is there, and settings that it has."""
    *command, job = shlex.split(line)[:5]
    if command != ["python", "-m", "lai_ray", "run"]:
        return [f"not `python -m lai_ray run JOB`: {line}"]
    try:
        job_file.read(ROOT / job, shlex.split(line)[5:])
    except ConfigError as error:
        return [str(error)]
    return []


def of_pod(pod: dict[str, Any]) -> Iterator[str]:
    """Volumes that are mounted exist, secrets keep their names, requests are limits, paths are on the shared disk."""
    there = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = container["volumeMounts"]
        yield from (f"volumes: {one['name']!r} is mounted and not there" for one in mounts if one["name"] not in there)
        if container["resources"]["requests"] != container["resources"]["limits"]:
            yield "containers.resources: Ray counts the limits; request the same"
        for one in container["env"]:
            source = one.get("valueFrom", {}).get("secretKeyRef", {"key": one["name"]})
            if source["key"] != one["name"]:
                yield f"containers.env: {one['name']} is read from the secret's {source['key']}"
            if one.get("value", "").startswith("/") and not any(
                one["value"].startswith(f"{mount['mountPath']}/") for mount in mounts
            ):
                yield f"containers.env: {one['name']} = {one['value']} is on no volume"


def of_runtime_env(environment: dict[str, Any]) -> list[str]:
    """Ray only warns of a key that it does not know."""
    found = problems(environment, schema("rules/runtime_env"))
    ignored = {line.strip("/") for line in (ROOT / ".rayignore").read_text().splitlines()}
    named = environment.get("excludes", [])
    if isinstance(named, list):
        found += [f"$.excludes: {one!r} is not in .rayignore" for one in named if str(one).strip("/") not in ignored]
    return found


@dataclass
class Image:
    """The state of a Dockerfile up to a line."""

    kind: str
    stages: dict[str, bool] = field(default_factory=dict)
    """Each stage, and whether a later one is built on it."""
    files: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def begins(self, words: list[str]) -> str:
        """FROM source AS stage"""
        if len(words) != 3 or words[1] != "AS" or not re.fullmatch("[a-z]+", words[2]):
            return f"FROM … AS stage, not {' '.join(words)}"
        source, _, stage = words
        known = source in self.stages
        self.stages |= {stage: False} | ({source: True} if known else {})
        ours = f"rayproject/ray:{RAY_VERSION}-py311-{self.kind}"
        return "" if known or source == ours else f"{source} is no stage above, and not {ours}"

    def copies(self, words: list[str]) -> str:
        """COPY --chown=ray:users source… place"""
        flags = [word for word in words if word.startswith("--")]
        *sources, place = [word for word in words if not word.startswith("--")]
        self.files.append(place)
        if flags != ["--chown=ray:users"]:
            return f"--chown=ray:users, not {' '.join(flags)}: user ray must be able to write there"
        missing = [name for name in sources if not (ROOT / name).exists()]
        if not place.startswith("/tmp/") and place != "./" and sources != [place]:
            return f"{' '.join(sources)} would be called {place} in the image"
        return f"not here: {', '.join(missing)}" if missing else ""

    def runs(self, words: list[str]) -> str:
        """RUN shell, which reads what was copied or made"""
        script = " ".join(words)
        if subprocess.run(["bash", "-n", "-c", script], capture_output=True).returncode:
            return f"not shell: {script}"
        wanted = [file for file in re.findall(r"/tmp/[\w.-]+", script) if f"> {file}" not in script]
        missing = [file for file in wanted if file not in self.files]
        return f"{missing[0]} was not copied" if missing else ""

    def says(self, words: list[str]) -> str:
        """ENV name=value…"""
        self.environment |= dict(word.partition("=")[::2] for word in words)
        wrong = [word for word in words if word not in [f"{name}={value}" for name, value in TELEMETRY_OFF.items()]]
        return f"{wrong[0]} is none of {TELEMETRY_OFF}" if wrong else ""

    def works(self, words: list[str]) -> str:
        """WORKDIR folder"""
        return "" if words == ["/home/ray/lai-ray"] else "KubeRay's files expect the code in /home/ray/lai-ray"

    def lacks(self) -> Iterator[str]:
        """At the end: stages on which nothing is built, telemetry that is on."""
        *earlier, last = self.stages or [""]
        yield from (f"stage {name}: nothing is built on it" for name in earlier if not self.stages[name])
        if last != "lai":
            yield f"stage {last}: the last one is called lai"
        yield from (f"ENV: {name} is not set" for name in TELEMETRY_OFF if name not in self.environment)


def of_dockerfile(text: str, kind: str) -> list[str]:
    """Instructions, stages, copied files, flags and environment of an image, "cpu" or "gpu"."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = [line.split() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    image, found = Image(kind), []
    steps = {"FROM": image.begins, "COPY": image.copies, "RUN": image.runs, "ENV": image.says, "WORKDIR": image.works}
    for number, (instruction, *words) in enumerate(lines, start=1):
        unknown = f"not an instruction, or none that is used here: {', '.join(steps)}"
        wrong = steps[instruction](words) if instruction in steps else unknown
        found += [f"instruction {number}, {instruction}: {wrong}"] if wrong else []
    return [*found, *image.lacks()]


def of_job(path: Path) -> list[str]:
    """A job file, up to where models and data would have to be there."""
    try:
        return list(of_names(job_file.read(path)))
    except ConfigError as error:
        return [str(error)]


def of_sweep(path: Path) -> list[str]:
    """A sweep file, and every run in it."""
    try:
        members = sweepfile.read(path).members
        return [f"run {member.name}: {wrong}" for member in members for wrong in of_names(member.config)]
    except ConfigError as error:
        return [str(error)]


def of_names(config: Config) -> Iterator[str]:
    """Plug-ins that exist and take their settings, a key that is named like one, a pool that every arm can fill."""
    own = {settings.name for settings in config.benchmark}
    named = [("benchmarks", name) for name in (*config.evaluate.learn_from, *config.evaluate.report_on)]
    named += [("strategies", name) for name in config.schedule.names()]
    named += [("engines", config.target.engine), ("engines", config.instructor.engine)]
    for kind, name in named:
        if name not in own:
            try:
                plugins.load(kind, name)
            except ConfigError as error:
                yield str(error)
    try:
        Job.of(config)  # Strategies' own settings.
    except ConfigError as error:
        yield str(error)
    for setting in (config.target.model, config.contrast.encoder, config.instructor.base_url or ""):
        if re.match(r"[A-Za-z_.]+:[A-Za-z]\w*$", setting):
            try:
                plugins.attribute(setting, what="model or server")
            except ConfigError as error:
                yield str(error)
    if config.instructor.api_key_env not in (None, "OPENAI_API_KEY"):
        yield f"instructor.api_key_env: clusters/ set OPENAI_API_KEY, not {config.instructor.api_key_env}"


def commands(path: Path) -> list[list[str]]:
    """Every `python -m lai_ray run` of a file as its words, comment signs and continued lines undone."""
    kind = loaded(path).get("kind") if path.suffix == ".yaml" else None
    text = loaded(path)["spec"]["entrypoint"] if kind == "RayJob" else path.read_text()
    text = re.sub(r"\s*\\\n[#\s]*", " ", text)
    found = [shlex.split(line)[4:] for line in re.findall(r"python -m lai_ray run (?!jobs/<)[^`\n]*", text)]
    return [[re.sub(r"^storage=\$PWD/", "storage=/", word) for word in words] for words in found]
