"""docs/kubernetes.md, as a reader would try it: all of its `sh` blocks, in one shell, on an empty cluster.

The images are built from the Dockerfiles, but not by the commands of the page, and no registry has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kubernetes import client, config

from tests.integration.service import ROOT, wait_until
from tests.kubernetes.relay import tcp_relay
from tests.kubernetes.service_image import import_service_image
from tests.kubernetes.shipped import why_not
from tests.servers.postgres import running_postgres
from tests.servers.valkey import valkey_server

CLIENT = ROOT / ".client" / "bin"
# No error is hidden by a command that goes on, and nothing outlives a script that breaks off.
_STRICT = "set -euo pipefail; trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n"
# What the page leaves to the reader.
_CHOICES = re.compile(r"^(REGISTRY|REDIS_URL|DATABASE_URL)=.*$", re.MULTILINE)
_NODE = "10.201.0.1"
_NAMESPACES = {"qinling", "qinling-functions"}
_DOCKER = """#!/bin/sh
case "$1" in
  build) test -f "$4/Dockerfile" ;;
  push) ;;
  *) echo "docker $1?" >&2; exit 1 ;;
esac
"""
# The cluster of the tests is older than these two versions, which have the same fields.
_KUBECTL = """#!/bin/bash
set -e -o pipefail
if [ "$1 $2" = "apply -k" ] || [ "$1 $2" = "delete -k" ]; then
  {kubectl} kustomize "$3" | sed -e 's|^apiVersion: autoscaling/v2$|apiVersion: autoscaling/v2beta2|' \
    -e 's|^apiVersion: policy/v1$|apiVersion: policy/v1beta1|' | {kubectl} "$1" "${{@:4}}" -f -
else
  exec {kubectl} "$@"
fi
"""
_VOLUME_SIZE = "10Gi"


def blocks() -> list[str]:
    return re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / "docs" / "kubernetes.md").read_text())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[client.CoreV1Api]:
    """The cluster, with a volume, and with nothing left of an installation afterwards."""
    with config.new_client_from_config(os.environ["KUBERNETES_CONFIG"]) as api:
        core = client.CoreV1Api(api)
        folder = tmp_path / "packages"
        folder.mkdir()
        folder.chmod(0o777)
        volume = {
            "capacity": {"storage": _VOLUME_SIZE},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": str(folder)},
        }
        core.create_persistent_volume({"metadata": {"name": "packages"}, "spec": volume})
        try:
            yield core
        finally:
            # The page deletes both namespaces. If it broke off, they are still there.
            made = {namespace.metadata.name for namespace in core.list_namespace().items}
            for namespace in made & _NAMESPACES:
                client.AppsV1Api(api).delete_collection_namespaced_deployment(namespace)
                core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
                core.delete_namespace(namespace)
            core.delete_persistent_volume("packages")
            wait_until(
                "the namespaces are gone",
                lambda: not {namespace.metadata.name for namespace in core.list_namespace().items} & _NAMESPACES,
                120,
            )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of what the page uses, where the reader works, with commands in `bin`."""
    home = tmp_path / "home"
    for name in ("Dockerfile", "runtimes", "config"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, home / name, ignore=shutil.ignore_patterns("mine", "__pycache__"))
        else:
            home.mkdir(exist_ok=True)
            shutil.copy(source, home / name)
    commands = home / "bin"
    commands.mkdir()
    for name, text in (("docker", _DOCKER), ("kubectl", _KUBECTL.format(kubectl=shutil.which("kubectl")))):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return home


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.skipif("KUBERNETES_OUTER_CONFIG" not in os.environ, reason="the images are imported into a node of ours")
@pytest.mark.skipif(not (CLIENT / "openstack").exists(), reason="make test installs openstack into .client")
@pytest.mark.timeout(600)
def test_its_commands_lead_to_a_first_call(cluster: client.CoreV1Api, home: Path) -> None:
    import_service_image()
    with ExitStack() as servers:
        postgres = servers.enter_context(running_postgres())
        redis = servers.enter_context(valkey_server())
        redis_port = servers.enter_context(tcp_relay(_NODE, Path(redis.url.removeprefix("unix://"))))
        postgres_port = servers.enter_context(tcp_relay(_NODE, postgres.folder / ".s.PGSQL.5432"))
        chosen = {
            "REGISTRY": "localhost",
            "REDIS_URL": f"redis://{_NODE}:{redis_port}/0",
            "DATABASE_URL": f"postgresql://postgres@{_NODE}:{postgres_port}/postgres",
        }
        script = _STRICT + _CHOICES.sub(lambda line: f"{line[1]}={chosen[line[1]]}", "\n".join(blocks()))
        environ = {
            "HOME": str(home),
            "KUBECONFIG": os.environ["KUBERNETES_CONFIG"],
            "PATH": f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}:{CLIENT}",
        }
        ran = subprocess.run(
            ["bash", "-x", "-c", script],
            cwd=home, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    for words in ("Hello, Ada", "Hello, Grace", "taken"):
        assert words in ran.stdout
