"""Joins a Ray cluster, or starts Ray on this machine.  Config -> a connected process

Handles clusters with and without authentication, sets the workers' environment so that they find this package and send
no usage statistics, and explains what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

import lai_ray
from lai_ray.config.config import Config
from lai_ray.distributed import ray_token
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
"""No usage statistics, and nothing on the terminal but our own progress."""


def start(config: Config) -> bool:
    """Join or start Ray; False if this process is connected already (then the caller must not stop it).

    Raises ConfigError if the named cluster does not answer or refuses the connection, or if one actor of the job can
    never fit on this machine; StageError if Ray cannot be started here.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    # Ray gives its workers nice 15: half of the processor, where anything else runs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    named = config.cluster.address or os.environ.get("RAY_ADDRESS")
    named = None if named == "local" else named
    environment = worker_environment(config)
    setting = "cluster.address" if config.cluster.address else "RAY_ADDRESS"
    if named is not None and "://" in named:
        raise ConfigError(_not_joinable(named, setting))
    try:
        if named is None:
            os.environ |= environment
            _start_here()
        else:
            _join(named, environment)
    except Exception as error:
        import ray

        ray.shutdown()
        raise _explained(error, named, setting) from error
    if named is None:
        import ray

        try:
            fits(config, ray.cluster_resources())
        except ConfigError:
            ray.shutdown()
            raise
    return True


def _start_here() -> None:
    """ray.init on this machine, tried twice: Ray gives a node 30 s to start, too little on a busy machine."""
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
    """ray.init on a running cluster, with its token if it requires one. A submitted job's settings have precedence."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        # Ray itself retries for minutes before it reports that the port is closed.
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        # Ray sends its token to this address only in token mode, which it reads when it is imported. And a cluster
        # without authentication must not get a token: this process would reject its replies.
        if ray_token.find() and _requires_token(address):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    wanted = QUIET | environment
    if "working_dir" in job:
        wanted.pop("PYTHONPATH")  # The nodes have the job's copy of the code, and Ray puts it on their path.
    # Ray refuses a variable that both the job and we set.
    wanted = {name: value for name, value in wanted.items() if name not in job.get("env_vars", {})}
    ray.init(address=address, log_to_driver=False, logging_level="warning", runtime_env={"env_vars": wanted})


def _requires_token(address: str) -> bool:
    """Whether the cluster at HOST:PORT refuses a request without a token; True also if that cannot be found out."""
    import grpc

    try:
        with grpc.insecure_channel(address) as channel:
            # By the name in Ray's protocol: its client classes are private. An empty request has no bytes.
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=CONNECT_SECONDS)
    except grpc.RpcError:
        return True
    return False


def worker_environment(config: Config) -> dict[str, str]:
    """The workers' variables: paths of this package and the user's plug-ins, and no hub if all models are local."""
    package = str(Path(lai_ray.__file__).parent.parent)
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep), os.getcwd()]
    variables = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}
    names = [config.target.model]
    with contextlib.suppress(ConfigError):
        asked = [config.instructor.model] if config.instructor.in_cluster else []
        names += [name for name in (config.contrast.encoder, *asked) if name != "target"]
        if not any(models.on_hub(models.locate(name, setting="model")) for name in names):
            variables |= {"HF_HUB_OFFLINE": "1"}
    return variables


def fits(config: Config, resources: dict[str, float]) -> None:
    """Raises ConfigError if one engine actor or one training worker asks for more than this machine has in all."""
    cluster, parallel = config.cluster, config.target.tensor_parallel
    if config.iterations and config.instructor.in_cluster:
        parallel = max(parallel, config.instructor.tensor_parallel)
    for what, needs in (
        ("replica", {"CPU": cluster.cpus_per_replica, "GPU": cluster.gpus_per_replica * parallel}),
        ("worker", {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}),
    ):
        for kind, wanted in needs.items():
            if wanted > resources.get(kind, 0):
                raise ConfigError(
                    f"cluster.{kind.lower()}s_per_{what} asks for {wanted:g} {kind}; this machine has "
                    f"{resources.get(kind, 0):g}. Lower it{' (0 runs on the CPU)' if kind == 'GPU' else ''}, or name a "
                    "cluster in cluster.address."
                )


def _not_joinable(address: str, setting: str) -> str:
    """A driver is a process of the cluster: it needs the shared memory, and actors connect to it."""
    dashboard = (
        address if address.startswith("http") else f"http://{address.partition('://')[2].partition(':')[0]}:8265"
    )
    what = "the dashboard's address" if address.startswith("http") else "an address for clients of the cluster"
    return (
        f"{setting} = {address!r} is {what}, and a job runs in the cluster itself. Submit it: `lai submit JOB "
        f"--address {dashboard}`. On one of the cluster's nodes, 'auto' or its HOST:6379 is the address to join."
    )


def _explained(error: Exception, address: str | None, setting: str) -> LaiError:
    message = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    if address is None:
        return StageError(f"Ray could not be started on this machine: {type(error).__name__}: {message}")
    if isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno is not None):
        return ConfigError(
            f"no Ray cluster answers at {address!r}, named by {setting}: {message}. Start one there (`ray start "
            "--head`), correct the address, or leave it out to run on this machine alone."
        )
    return ConfigError(
        f"the server at {address!r}, named by {setting}, refuses the connection: {message}. If its Ray requires a "
        "token, set RAY_AUTH_MODE=token and put the token (`ray get-auth-token` there) into ~/.ray/auth_token; "
        "otherwise check that it is Ray, and of the same version."
    )
