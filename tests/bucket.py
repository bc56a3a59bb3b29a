"""A real S3 server (moto's) in a process of its own, and what the environment must say to reach it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def reaching(port: int) -> dict[str, str]:
    """The variables with which buckets of a server there are reached."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIATHEKEYOFTHETESTS", "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-tests"}
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", **keys}


@contextmanager
def serving(log: Path, port: int | None = None, **environment: str) -> Iterator[dict[str, str]]:
    """The variables with which its buckets are reached, once it answers."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield reaching(port)
    finally:
        server.kill()
        server.wait()


def client(environment: dict[str, str], service: str = "s3") -> object:
    """boto3's client, for what our own has no need of: buckets, users."""
    import boto3

    return boto3.client(
        service, endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def user(users: object, name: str, may: list[str]) -> dict[str, str]:
    """The keys of a new user who may do this and nothing else. users: the client of "iam". Three requests."""
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": may, "Resource": "*"}]}
    users.create_user(UserName=name)  # type: ignore[attr-defined]
    users.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))  # type: ignore[attr-defined]
    key = users.create_access_key(UserName=name)["AccessKey"]  # type: ignore[attr-defined]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty bucket that this process's environment reaches; models are copied to a new folder."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder / "server.log") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "LAI_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        client(environment).create_bucket(Bucket="bucket")  # type: ignore[attr-defined]
        yield "s3://bucket"
