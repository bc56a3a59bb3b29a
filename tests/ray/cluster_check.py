"""A cluster of three nodes on this machine, of which one has another key: what each says of the storage."""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

from lai_ray.distributed.cluster import storage_check
from lai_ray.errors import ConfigError
from tests.ray.test_session import config


def main(storage: str) -> None:
    """Prints the number of nodes, and then what the refusal says."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1, env_vars={"AWS_SECRET_ACCESS_KEY": "not-the-secret"})
    try:
        job = config(address=cluster.address).model_copy(update={"storage": storage})
        found = storage_check.cluster(job).nodes
        print(len(found), [node.free is not None for node in found], len(storage_check.table(found, storage).rows))
        storage_check.refuse(found, storage)
    except ConfigError as error:
        print(error)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
