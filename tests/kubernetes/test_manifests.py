"""The manifests of config/kubernetes: a real API server accepts them, and they say what they should.

The cluster of the tests is 1.20, and does not show three things: the admission of PodSecurity (its rules are checked
one by one instead), autoscaling/v2 and policy/v1 (the versions before them are tried, and the fields held against the
models of the Python client), and whether the network enforces the NetworkPolicies.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from tests.integration.service import ROOT
from tests.kubernetes.access import IN_CLUSTER, MANIFESTS
from tests.kubernetes.shipped import OLDER_VERSIONS, build, of_kind, why_not
from tests.support.pod_security import broken_rules

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

OF_EXAMPLE = ["functions-internet"]  # and those that the overlay names itself
OF_OUTSIDE = ["functions-internet", "node-port", "api-proxy"]


@pytest.fixture(scope="module")
def example() -> list[dict[str, Any]]:
    return build("example", OF_EXAMPLE)


@pytest.fixture
def namespaces() -> Iterator[None]:
    """The two namespaces, without which objects in them can't be tried."""
    with config.new_client_from_config(os.environ["KUBERNETES_CONFIG"]) as api:
        core = client.CoreV1Api(api)
        names = ("qinling", "qinling-functions")
        for name in names:
            core.create_namespace({"metadata": {"name": name}})
        yield
        for name in names:
            core.delete_namespace(name)
        # The next test that makes them would fail while they end.
        waiting = [f"namespace/{name}" for name in names]
        subprocess.run(["kubectl", "wait", "--for=delete", "--timeout=60s", *waiting], env=_environ(), check=True)


@pytest.mark.parametrize(("overlay", "components"), [("example", OF_EXAMPLE), ("outside", OF_OUTSIDE)])
@pytest.mark.usefixtures("namespaces")
def test_the_api_server_accepts_all_objects(overlay: str, components: list[str]) -> None:
    objects = [_as_served(thing) for thing in build(overlay, components)]

    tried = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-"],
        input=yaml.safe_dump_all(objects), env=_environ(), capture_output=True, text=True,
    )  # fmt: skip

    assert tried.returncode == 0, tried.stderr
    assert len(tried.stdout.splitlines()) == len(objects)


def test_all_components_are_tried(example: list[dict[str, Any]]) -> None:
    named = yaml.safe_load((MANIFESTS / "overlays" / "example" / "kustomization.yaml").read_text())["components"]
    tried = {name.rpartition("/")[2] for name in named} | {*OF_EXAMPLE, *OF_OUTSIDE}

    assert tried == {folder.name for folder in (MANIFESTS / "components").iterdir()}


@pytest.mark.parametrize("model", [client.V2HorizontalPodAutoscaler, client.V1PodDisruptionBudget])
def test_newer_versions_have_the_fields(model: Any, example: list[dict[str, Any]]) -> None:
    found = of_kind(example, model.__name__[2:])

    assert found
    for thing in found.values():
        assert client.ApiClient().sanitize_for_serialization(model.from_dict(thing)) == thing


def test_each_process_of_the_procfile_has_its_command(example: list[dict[str, Any]]) -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    wanted = {name: command.split() for name, _, command in (line.partition(": ") for line in lines)}
    running = of_kind(example, "Deployment") | of_kind(example, "Job")

    assert {name: _container(thing)["command"] for name, thing in running.items()} == wanted


def test_pods_of_the_service_satisfy_the_pod_security_standard(example: list[dict[str, Any]]) -> None:
    for name, thing in (of_kind(example, "Deployment") | of_kind(example, "Job")).items():
        assert broken_rules(thing["spec"]["template"]) == [], name
        assert _container(thing)["securityContext"]["readOnlyRootFilesystem"] is True, name


def test_both_namespaces_enforce_the_pod_security_standard(example: list[dict[str, Any]]) -> None:
    for name, thing in of_kind(example, "Namespace").items():
        assert thing["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted", name


def test_only_processes_that_need_it_get_a_token(example: list[dict[str, Any]]) -> None:
    accounts = of_kind(example, "ServiceAccount")
    running = of_kind(example, "Deployment") | of_kind(example, "Job")
    with_token = {
        name
        for name, thing in running.items()
        if accounts[_pod(thing)["serviceAccountName"]].get("automountServiceAccountToken", True)
    }

    assert with_token == {"pool", "web", "worker"}
    assert "default" not in accounts, "the cluster makes it itself, at the same time"
    assert {binding["roleRef"]["name"] for binding in of_kind(example, "RoleBinding").values()} == set(IN_CLUSTER)
    assert not of_kind(example, "ClusterRoleBinding")


def test_without_image_functions_the_pool_alone_gets_a_token() -> None:
    deployments = of_kind(_kustomized("service"), "Deployment")

    accounts = {name: _pod(thing)["serviceAccountName"] for name, thing in deployments.items()}

    assert {name for name, account in accounts.items() if account != "qinling"} == {"pool"}


def test_functions_are_reached_by_the_service_alone_and_reach_nothing() -> None:
    policy = of_kind(_kustomized("functions"), "NetworkPolicy")["workers"]

    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not policy["spec"].get("egress")
    [rule] = policy["spec"]["ingress"]
    [source] = rule["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "qinling"}
    assert rule["ports"] == [{"protocol": "TCP", "port": 9090}]


def test_outside_the_cluster_the_account_has_the_rights_of_the_chosen_access() -> None:
    for component in ("node-port", "api-proxy"):
        bindings = of_kind(build("outside", [component]), "RoleBinding")

        assert bindings.keys() == {*IN_CLUSTER, f"qinling-{component}"}
        for binding in bindings.values():
            [subject] = binding["subjects"]
            assert (subject["name"], subject["namespace"]) == ("qinling", "qinling-functions")


def test_no_address_reaches_workers_from_outside_before_an_overlay_names_it() -> None:
    policy = of_kind(build("outside"), "NetworkPolicy")["outside"]
    [rule] = policy["spec"]["ingress"]

    assert rule["from"] == [{"ipBlock": {"cidr": "192.0.2.0/32"}}]


def test_functions_with_internet_do_not_reach_private_addresses(example: list[dict[str, Any]]) -> None:
    policy = of_kind(example, "NetworkPolicy")["functions-internet"]
    addresses, names = policy["spec"]["egress"]
    blocks = [target["ipBlock"] for target in addresses["to"]]

    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "2000::/3"]
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
    assert private <= set(blocks[0]["except"])
    assert {port["port"] for port in names["ports"]} == {53}
    assert policy["spec"]["policyTypes"] == ["Egress"]


def test_web_is_reached_from_namespaces_with_the_label_and_nothing_else_is_reached(
    example: list[dict[str, Any]],
) -> None:
    policies = of_kind(example, "NetworkPolicy")

    assert policies["service"]["spec"]["podSelector"] == {}
    assert not policies["service"]["spec"].get("ingress")
    [rule] = policies["web"]["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"qinling-falcon/clients": "true"}}}]


def test_pods_have_time_to_stop(example: list[dict[str, Any]]) -> None:
    settings = next(iter(of_kind(example, "ConfigMap").values()))["data"]
    grace = int(settings["SHUTDOWN_GRACE_S"])
    pause = int(_container(of_kind(example, "Deployment")["web"])["lifecycle"]["preStop"]["exec"]["command"][1])
    deployments = of_kind(example, "Deployment")

    assert _pod(deployments["web"])["terminationGracePeriodSeconds"] > pause + grace
    assert _pod(deployments["worker"])["terminationGracePeriodSeconds"] >= grace + 15


def _kustomized(folder: str) -> list[dict[str, Any]]:
    built = subprocess.run(["kubectl", "kustomize", MANIFESTS / folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(built.stdout))


def _pod(thing: dict[str, Any]) -> dict[str, Any]:
    return dict(thing["spec"]["template"]["spec"])


def _container(thing: dict[str, Any]) -> dict[str, Any]:
    [container] = _pod(thing)["containers"]
    return dict(container)


def _as_served(thing: dict[str, Any]) -> dict[str, Any]:
    """An object in a version that the cluster of the tests has."""
    return thing | {"apiVersion": OLDER_VERSIONS.get(thing["apiVersion"], thing["apiVersion"])}


def _environ() -> dict[str, str]:
    return os.environ | {"KUBECONFIG": os.environ["KUBERNETES_CONFIG"]}
