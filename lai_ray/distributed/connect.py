"""Joins a Ray cluster, or starts Ray on this machine.  Config -> a connected process

Handles clusters with and without authentication, sets the workers' environment so that they find this package, pass no
proxy on their way to this machine and send no usage statistics, and explains what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

import lai_ray
from lai_ray.common import proxies, search_path
from lai_ray.config.config import Config
from lai_ray.distributed import causes, ray_token, temporary
from lai_ray.errors import ConfigError, LaiError, StageError
from lai_ray.storage import models

CONNECT_SECONDS = 10
SLOW = re.compile("timed out", re.IGNORECASE)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
"""No usage statistics, and nothing on the terminal but our own progress."""
PRELOADED = "RAY_preload_python_modules"
"""Ray's variable for modules that a worker imports before its first task."""


def start(config: Config) -> bool:
    """Join or start Ray; False if this process is connected already (then the caller must not stop it).

    Raises ConfigError if the named cluster does not answer or refuses the connection, or if one actor of the job can
    never fit on this machine; StageError if Ray cannot be started here.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    # Ray gives its workers nice 15: half of the processor, where anything else runs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    proxies.spare_local()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    named = config.cluster.address or os.environ.get("RAY_ADDRESS")
    named = None if named == "local" else named
    setting = "cluster.address" if config.cluster.address else "RAY_ADDRESS"
    if named is not None and "://" in named:
        raise ConfigError(_not_joinable(named, setting))
    began = time.time()
    try:
        if named is None:
            temporary.shorten()
            ray_token.make_without_home()
            os.environ |= worker_environment(config, package_alone()) | {PRELOADED: f"{__package__}.worker_start"}
            _start_here()
        else:
            _join(named, worker_environment(config, _package_folder()))
    except LaiError:
        raise
    except Exception as error:
        import ray

        ray.shutdown()
        raise _explained(error, named, setting, began) from error
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
            options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
            ray.init(address="local", job_config=_job_config(), **options)
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
    environment_of_workers: dict[str, Any] = {"env_vars": wanted}
    options = {"log_to_driver": False, "logging_level": "warning", "runtime_env": environment_of_workers}
    if "working_dir" not in job:
        wanted[search_path.FOLDER] = os.getcwd()
        options["job_config"] = _job_config()
        environment_of_workers["worker_process_setup_hook"] = f"{search_path.__name__}.user_folder_last"
    ray.init(address=address, **options)


def _job_config() -> Any:
    """A job without folders: Ray would search the current one before Python's own modules, in every worker."""
    from ray.job_config import JobConfig

    class WithoutFolders(JobConfig):  # type: ignore[misc]  # Ray's classes are Any here.
        def _runtime_env_has_working_dir(self) -> bool:
            # Private: a Ray without this method adds the folder.
            return True

    return WithoutFolders()


def _requires_token(address: str) -> bool:
    """Whether the cluster at HOST:PORT refuses a request without a token; True also if that cannot be found out."""
    import grpc

    try:
        # Ray's own channels take no proxy either.
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            # By the name in Ray's protocol: its client classes are private. An empty request has no bytes.
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=CONNECT_SECONDS)
    except grpc.RpcError:
        return True
    return False


def _package_folder() -> str:
    return str(Path(lai_ray.__file__).parent.parent)


def package_alone() -> str:
    """A folder that this package is in, and no other file of the current folder."""
    folder = _package_folder()
    if not os.path.samefile(folder, os.getcwd()):
        return folder
    link = temporary.private()
    (link / "lai_ray").symlink_to(Path(folder) / "lai_ray")
    return str(link)


def worker_environment(config: Config, package: str) -> dict[str, str]:
    """The workers' variables: the path of this package, and no hub if all models are local.

    package: the folder that it is in.
    """
    variables = search_path.for_children(package) | search_path.for_workers()
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


def _explained(error: Exception, address: str | None, setting: str, began: float) -> LaiError:
    """began: when the start began, in seconds since the epoch."""
    message = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    if address is None:
        logs = temporary.ray_logs(began)
        why = causes.words_or_log(error, logs).rstrip(".")
        where = f" Ray's logs are in {logs[0].parent}." if logs else ""
        slow = " It gives its own processes half a minute: on a busy machine, try again." if SLOW.search(why) else ""
        return StageError(f"Ray could not be started on this machine: {why}.{slow}{causes.suspects()}{where}")
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
