"""Strict schemas of the cluster files, cut out of what Ray, KubeRay, Kubernetes, AWS and Google publish.

upstream + the fields named here -> tests/schemas/cut/*.json

Ray's own schema leaves `provider` and `node_config` open, and Ray knows none of Kubernetes' kinds. Here a field is
named once; its type, its allowed values and what it requires come from upstream, and what is not named is forbidden. A
field that upstream does not have stops the cut, so a typo cannot come in this way either. To cut anew, with one folder
for the sources:

    pip download --no-deps -d SOURCES botocore==1.44.5 google-api-python-client==2.202.0 kubernetes-validate==1.37.0
    git clone --depth 1 --branch v1.7.0 https://github.com/ray-project/kuberay SOURCES/kuberay
    python tests/schemas/cut.py SOURCES          # in the environment of this package: Ray's part is the installed one's

All of them are under Apache-2.0, as this package is: Ray and KubeRay (the Ray authors), Kubernetes (the Kubernetes
authors, by way of kubernetes-validate), botocore (Amazon.com, Inc.), google-api-python-client (Google LLC).
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
Json = dict[str, Any]
Look = Callable[[Json], Json]
"""One node as upstream writes it -> the same as JSON Schema, its properties and items still as upstream writes them."""

CLUSTER = """
rayVersion authOptions{mode secretName} enableInTreeAutoscaling
autoscalerOptions{idleTimeoutSeconds upscalingMode version}
headGroupSpec{rayStartParams serviceType template{POD}}
workerGroupSpecs{groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds rayStartParams template{POD}}
"""
JOB = """
entrypoint entrypointNumCpus entrypointResources submissionMode backoffLimit shutdownAfterJobFinishes runtimeEnvYAML
ttlSecondsAfterFinished preRunningDeadlineSeconds activeDeadlineSeconds suspend
"""
POD = """
metadata{labels annotations}
spec{
  containers{
    name image imagePullPolicy workingDir resources{requests limits}
    env{name value valueFrom{secretKeyRef{name key optional}}}
    ports{containerPort name protocol}
    volumeMounts{name mountPath subPath readOnly}
  }
  volumes{name persistentVolumeClaim{claimName readOnly}}
  securityContext{fsGroup runAsUser runAsGroup runAsNonRoot}
  tolerations{key operator value effect tolerationSeconds}
  imagePullSecrets{name}
  nodeSelector serviceAccountName priorityClassName terminationGracePeriodSeconds
}
"""
META = "name generateName namespace labels annotations"
CLAIM = f"apiVersion kind metadata{{{META}}} spec{{accessModes storageClassName resources{{requests limits}}}}"

RUN_INSTANCES = """
InstanceType ImageId KeyName EbsOptimized SecurityGroupIds IamInstanceProfile{Arn Name}
BlockDeviceMappings{DeviceName Ebs{VolumeSize VolumeType Iops Throughput Encrypted DeleteOnTermination}}
InstanceMarketOptions{MarketType SpotOptions{MaxPrice}}
Placement{AvailabilityZone GroupName Tenancy}
TagSpecifications{ResourceType Tags{Key Value}}
"""
FAMILIES = re.compile(r"(m6i|m7i|c7i|r7i|g5|g6|g6e|p4d|p4de|p5|p5e|p5en|p6-b200)\.(?!metal)")
"""Of EC2's 1,437 instance types those that a run may want."""
INSTANCE = """
machineType minCpuPlatform labels metadata{items{key value}} tags{items}
disks{boot autoDelete type deviceName initializeParams{diskSizeGb diskType sourceImage}}
serviceAccounts{email scopes}
guestAccelerators{acceleratorType acceleratorCount}
networkInterfaces{network subnetwork accessConfigs{name type}}
scheduling{provisioningModel preemptible onHostMaintenance automaticRestart instanceTerminationAction}
"""
PROVIDER = {
    "aws": "type region availability_zone cache_stopped_nodes use_internal_ips security_group{GroupName IpPermissions}",
    "gcp": "type region availability_zone cache_stopped_nodes use_internal_ips project_id",
}
IN_CODE = {"aws": {"use_external_head_ip": {"type": "boolean"}}, "gcp": {"use_external_head_ip": {"type": "boolean"}}}
"""Keys of `provider` that Ray's code reads and Ray's schema does not list."""
RAYS_OWN = {"SubnetIds": {"type": "array", "items": {"type": "string"}}}
"""Ray's launcher takes this one in place of EC2's SubnetId (autoscaler/_private/aws/config.py)."""
KEPT = ("type", "enum", "pattern", "minimum", "maximum")


def wanted(text: str) -> dict[str, Any]:
    """ "a b{c d}" -> {"a": {}, "b": {"c": {}, "d": {}}}"""
    words = re.findall(r"[^\s{}]+|[{}]", text.replace("POD", POD))
    stack: list[dict[str, Any]] = [{}]
    last = ""
    for word in words:
        if word == "{":
            stack.append(stack[-1][last])
        elif word == "}":
            stack.pop()
        else:
            stack[-1][word] = {}
            last = word
    return stack[0]


def cut(node: Json, fields: dict[str, Any], look: Look, place: str) -> Json:
    """What upstream says of the named fields, closed to all others."""
    node = look(node)
    if "items" in node and "properties" not in node:
        return {"type": "array", "items": cut(node["items"], fields, look, f"{place}[]")}
    if not fields:
        return leaf(node, look, place)
    known = node.get("properties", {})
    if unknown := sorted(set(fields) - set(known)):
        raise SystemExit(f"{place}: upstream has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    required = [name for name in node.get("required", []) if name != "MinCount" and name != "MaxCount"]
    if left_out := sorted(set(required) - set(fields)):
        raise SystemExit(f"{place}: upstream requires {', '.join(left_out)}: name them")
    parts = {name: cut(known[name], inner, look, f"{place}.{name}") for name, inner in fields.items()}
    closed = {"type": "object", "additionalProperties": False, "properties": parts}
    return closed | ({"required": required} if required else {})


def leaf(node: Json, look: Look, place: str) -> Json:
    """A value; of a map whose keys are free, its values."""
    if node.get("properties"):
        raise SystemExit(f"{place}: say which of its fields: {', '.join(sorted(node['properties']))}")
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | ({"pattern": node["pattern"]} if "pattern" in node else {})
    found = {key: node[key] for key in KEPT if key in node}
    if isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = leaf(look(node["additionalProperties"]), look, f"{place}.*")
    return found


def of_botocore(shapes: Json) -> Look:
    """Shapes of a botocore service model."""
    plain = {"integer": "integer", "long": "integer", "boolean": "boolean", "double": "number", "float": "number"}

    def look(node: Json) -> Json:
        shape = shapes[node["shape"]] if "shape" in node else node
        if shape["type"] == "structure":
            return {"type": "object", "properties": shape["members"], "required": shape.get("required", [])}
        if shape["type"] == "list":
            return {"items": shape["member"]}
        found = {"type": plain.get(shape["type"], "string")}
        if enum := shape.get("enum"):
            found["enum"] = [value for value in enum if len(enum) < 500 or FAMILIES.match(value)]
        return found

    return look


def of_discovery(schemas: Json) -> Look:
    """Schemas of a Google discovery document, where a 64-bit number is a string or a number."""

    def look(node: Json) -> Json:
        node = schemas[node["$ref"]] if "$ref" in node else node
        return {**node, "type": ["integer", "string"]} if node.get("format") in ("int64", "uint64") else node

    return look


def of_definitions(definitions: Json) -> Look:
    """JSON Schema whose references are into one table of definitions."""

    def look(node: Json) -> Json:
        if "$ref" not in node:
            return node
        return look(definitions[node["$ref"].rpartition("/")[2]])

    return look


def as_it_is(node: Json) -> Json:
    """JSON Schema without references."""
    return node


def of_ray(path: str) -> Path:
    """A file of the installed Ray."""
    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:
        raise SystemExit("Ray is not installed here")
    return Path(found.origin).parent / path


def ray_start_options() -> list[str]:
    """The options of `ray start`, read from Ray's command line without running it."""
    tree = ast.parse(of_ray("scripts/scripts.py").read_text())
    (start,) = (part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == "start")
    calls = [one for one in start.decorator_list if isinstance(one, ast.Call)]
    names = {str(word.value) for call in calls for word in call.args if isinstance(word, ast.Constant)}
    return sorted(name.removeprefix("--").partition("/")[0] for name in names if name.startswith("--"))


def wheel(sources: Path, name: str, inside: str) -> tuple[bytes, str]:
    """A file of a downloaded wheel, and the wheel's version."""
    (path,) = sources.glob(f"{name}-*.whl")
    with zipfile.ZipFile(path) as archive:
        (member,) = (one for one in archive.namelist() if re.fullmatch(inside, one))
        return archive.read(member), path.name.split("-")[1]


def kuberay(sources: Path) -> Json:
    """RayCluster and RayJob, from KubeRay's custom resource definitions, and the claim they mount, from Kubernetes."""
    specs: dict[str, Json] = {}
    for kind in ("raycluster", "rayjob"):
        path = sources / f"kuberay/helm-chart/kuberay-operator/crds/ray.io_{kind}s.yaml"
        versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
        (version,) = (each for each in versions if each["name"] == "v1")
        specs[kind] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    cluster = cut(specs["raycluster"], wanted(CLUSTER), as_it_is, "RayCluster.spec")
    job = cut(specs["rayjob"], wanted(JOB) | {"rayClusterSpec": wanted(CLUSTER)}, as_it_is, "RayJob.spec")
    if job["properties"]["rayClusterSpec"] != cluster:
        raise SystemExit("RayJob's rayClusterSpec is no longer RayCluster's spec")
    job["properties"]["rayClusterSpec"] = {"$ref": "#/$defs/cluster"}
    start = {"type": "object", "additionalProperties": False}
    start["properties"] = {name: {"type": "string"} for name in ray_start_options()}
    head, workers = cluster["properties"]["headGroupSpec"], cluster["properties"]["workerGroupSpecs"]["items"]
    pod = head["properties"]["template"]
    for group in (head, workers):
        group["properties"] |= {"rayStartParams": {"$ref": "#/$defs/start"}, "template": {"$ref": "#/$defs/pod"}}
    strict = r".*v1\.37\.\d-local-strict/"
    claim, version = wheel(sources, "kubernetes_validate", strict + r"persistentvolumeclaim-v1\.json")
    definitions = json.loads(wheel(sources, "kubernetes_validate", strict + r"_definitions\.json")[0])["$defs"]
    look = of_definitions(definitions)
    volume = cut(json.loads(claim), wanted(CLAIM), look, "PersistentVolumeClaim")
    meta = volume["properties"]["metadata"]

    def resource(kind: str, spec: Json) -> Json:
        parts = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": meta, "spec": spec}
        return {"type": "object", "required": list(parts), "additionalProperties": False, "properties": parts}

    return {
        "$comment": "Cut by tests/schemas/cut.py from the CRDs of KubeRay v1.7.0 (helm-chart/kuberay-operator/crds, "
        f"Apache-2.0), Kubernetes 1.37 in kubernetes-validate {version} (Apache-2.0), and `ray start` of Ray "
        f"{importlib.metadata.version('ray')} (Apache-2.0).",
        "$defs": {
            "RayCluster": resource("RayCluster", {"$ref": "#/$defs/cluster"}),
            "RayJob": resource("RayJob", job),
            "PersistentVolumeClaim": volume,
            "cluster": cluster,
            "pod": pod,
            "start": start,
        },
    }


def launcher(kind: str, node_config: Json, source: str) -> Json:
    """The places that Ray's launcher schema leaves open: `provider` and every `node_config`."""
    rays = json.loads(of_ray("autoscaler/ray-schema.json").read_text())["properties"]["provider"]
    provider = cut({**rays, "required": []}, wanted(PROVIDER[kind]), as_it_is, "provider")
    provider["properties"] |= in_code(kind)
    return {
        "$comment": f"Cut by tests/schemas/cut.py from {source} and autoscaler/ray-schema.json of Ray "
        f"{importlib.metadata.version('ray')} (Apache-2.0).",
        "type": "object",
        "properties": {
            "provider": provider,
            "available_node_types": {"additionalProperties": {"properties": {"node_config": node_config}}},
        },
    }


def in_code(kind: str) -> Json:
    """The keys of IN_CODE, each found in Ray's code."""
    folder = of_ray("autoscaler/_private")
    code = "".join(path.read_text() for path in [*folder.glob("*.py"), *(folder / kind).glob("*.py")])
    for key in IN_CODE[kind]:
        if f'"{key}"' not in code:
            raise SystemExit(f"provider.{key}: not read by Ray's launcher")
    return IN_CODE[kind]


def aws(sources: Path) -> Json:
    """From the service model that botocore carries."""
    packed, version = wheel(sources, "botocore", r"botocore/data/ec2/2016-11-15/service-2\.json\.gz")
    shapes = json.loads(gzip.decompress(packed))["shapes"]
    config = cut({"shape": "RunInstancesRequest"}, wanted(RUN_INSTANCES), of_botocore(shapes), "RunInstances")
    config["properties"] |= RAYS_OWN
    return launcher("aws", config, f"EC2's RunInstances in botocore {version} (Apache-2.0)")


def gcp(sources: Path) -> Json:
    """From the discovery document that Google's client carries."""
    document, version = wheel(sources, "google_api_python_client", r".*/documents/compute\.v1\.json")
    found = json.loads(document)
    config = cut({"$ref": "Instance"}, wanted(INSTANCE), of_discovery(found["schemas"]), "Instance")
    source = f"Instance of compute v1, revision {found['revision']}, in google-api-python-client {version} (Apache-2.0)"
    return launcher("gcp", config, source)


def main() -> None:
    """Cuts all of them."""
    sources = Path(sys.argv[1])
    (HERE / "cut").mkdir(exist_ok=True)
    for name, made in (("kuberay", kuberay(sources)), ("aws", aws(sources)), ("gcp", gcp(sources))):
        path = HERE / f"cut/{name}.json"
        path.write_text(
            json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=1) + "\n"
        )
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
