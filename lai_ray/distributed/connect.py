"""Joining a Ray cluster, or starting Ray here.  Config -> a connected process

With authentication or without, with the workers' environment set so that they find this package and tell nobody
what runs here; and what went wrong in words for a person.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import lai_ray
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError, LaiError, StageError
from lai_ray.storage import models

CONNECT_SECONDS = 10
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
"""Nobody is told what runs here, and nothing draws on the terminal but our own progress."""


def start(config: Config) -> bool:
    """Join or start Ray; False when this process has it already (then it is not ours to stop).

    Raises ConfigError when the named cluster does not answer or refuses us, or one actor of the job can never fit on
    this machine; StageError when Ray cannot be started here.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    # Ray gives its workers nice 15: half of the processor, where anything else runs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        return False
    named = config.cluster.address or os.environ.get("RAY_ADDRESS")
    named = None if named == "local" else named
    ours = _environment(config)
    setting = "cluster.address" if config.cluster.address else "RAY_ADDRESS"
    if named is not None and "://" in named:
        raise ConfigError(_not_from_outside(named, setting))
    try:
        if named is None:
            os.environ |= ours
            _begin()
        else:
            _join(named, ours)
    except LaiError:
        raise
    except Exception as error:
        ray.shutdown()
        raise _could_not(error, named, setting) from error
    if named is None:
        try:
            fits(config, ray.cluster_resources())
        except ConfigError:
            ray.shutdown()
            raise
    return True


def _begin() -> None:
    """ray.init on this machine, tried twice: Ray gives a node 30 s to start, which a busy machine may not manage."""
    import ray

    for last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="warning")
            return
        except Exception:
            ray.shutdown()
            if last:
                raise


def _join(address: str, environment: dict[str, str]) -> None:
    """ray.init on a running cluster, with its token when there is one. Settings of a submitted job go before ours."""
    import ray
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        # Ray itself tries for minutes before it says that nobody is there.
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    # A cluster with authentication turns us away without the token. With it, we would turn away a cluster that has none
    # to show: it takes every actor of ours for abandoned. By Ray's own function, which has read the environment before.
    if _wants_token(address):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    wanted = QUIET | environment
    if "working_dir" in job:
        wanted.pop("PYTHONPATH")  # The nodes have the job's copy of the code, and Ray puts it on their path.
    # A variable that is set by the job and by us is an error in Ray; the job's word counts.
    wanted = {name: value for name, value in wanted.items() if name not in job.get("env_vars", {})}
    ray.init(address=address, log_to_driver=False, logging_level="warning", runtime_env={"env_vars": wanted})


def _wants_token(address: str) -> bool:
    """Whether the cluster at an address refuses who has no token; True also where that cannot be found out."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    found = canonicalize_bootstrap_address(address)
    if found is None:
        return True
    try:
        with grpc.insecure_channel(found) as channel:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=CONNECT_SECONDS)
    except grpc.RpcError:
        return True
    return False


def _environment(config: Config) -> dict[str, str]:
    """What the workers need to find: this package, the user's own plug-ins beside it, and no hub when all is local."""
    package = str(Path(lai_ray.__file__).parent.parent)
    paths = [package, os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    found = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}
    names = [config.target.model]
    with contextlib.suppress(ConfigError):
        asked = [config.instructor.model] if config.instructor.in_cluster else []
        names += [name for name in (config.contrast.encoder, *asked) if name != "target"]
        if not any(models.on_hub(models.locate(name, setting="model")) for name in names):
            found |= {"HF_HUB_OFFLINE": "1"}
    return found


def fits(config: Config, there: dict[str, float]) -> None:
    """Raises ConfigError when one engine actor or one training worker asks for more than this machine has at all."""
    cluster, parallel = config.cluster, config.target.tensor_parallel
    if config.iterations and config.instructor.in_cluster:
        parallel = max(parallel, config.instructor.tensor_parallel)
    for what, needs in (
        ("replica", {"CPU": cluster.cpus_per_replica, "GPU": cluster.gpus_per_replica * parallel}),
        ("worker", {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}),
    ):
        for kind, wanted in needs.items():
            if wanted > there.get(kind, 0):
                raise ConfigError(
                    f"cluster.{kind.lower()}s_per_{what} asks for {wanted:g} {kind}; this machine has "
                    f"{there.get(kind, 0):g}. Lower it{' (0 runs on the CPU)' if kind == 'GPU' else ''}, or name a "
                    "cluster in cluster.address."
                )


def _not_from_outside(address: str, setting: str) -> str:
    """A driver is a process of the cluster: it shares its memory, and its actors find it."""
    dashboard = (
        address if address.startswith("http") else f"http://{address.partition('://')[2].partition(':')[0]}:8265"
    )
    what = "the dashboard's address" if address.startswith("http") else "an address for clients of the cluster"
    return (
        f"{setting} = {address!r} is {what}, and a job runs in the cluster itself. Submit it: `lai submit JOB "
        f"--address {dashboard}`. On one of the cluster's nodes, 'auto' or its HOST:6379 is the address to join."
    )


def _could_not(error: Exception, address: str | None, setting: str) -> LaiError:
    said = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    if address is None:
        return StageError(f"Ray could not be started on this machine: {type(error).__name__}: {said}")
    if isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno is not None):
        return ConfigError(
            f"no Ray cluster answers at {address!r}, named by {setting}: {said}. Start one there (`ray start --head`), "
            "correct the address, or leave it out to run on this machine alone."
        )
    return ConfigError(
        f"something answers at {address!r}, named by {setting}, but will not have us: {said}. If its Ray wants a "
        "token, set RAY_AUTH_MODE=token and put the token (`ray get-auth-token` there) into ~/.ray/auth_token; else "
        "look whether it is Ray at all, and of the same version."
    )
