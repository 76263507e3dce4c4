"""Makes the API server answer 429 to a service, by its own priority and fairness."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.kubernetes.access import Account

_GROUP = "flowcontrol.apiserver.k8s.io"
_PRECEDENCE = 10  # before all schemas that an API server has by itself, except `exempt`
_MOST_SEATS = 60


@contextlib.contextmanager
def throttled(account: Account, namespace: str) -> Iterator[None]:
    """Let the API server refuse each request of an account because it has too many.

    The account gets a priority level with the fewest seats that there are, without a queue. Requests whose body does
    not come hold all seats.
    """
    with (
        config.new_client_from_config(os.environ["KUBERNETES_CONFIG"]) as api,
        _priority_level(api, account.name),
        contextlib.ExitStack() as seats,
    ):
        server = _Server(account.kubeconfig)
        for _ in range(_MOST_SEATS):
            seats.enter_context(contextlib.closing(server.hold_seat(namespace)))
            time.sleep(0.1)
            if server.status(namespace) == http.client.TOO_MANY_REQUESTS:
                break
        else:
            raise AssertionError(f"{_MOST_SEATS} requests at once, and none was refused")
        yield


@contextlib.contextmanager
def _priority_level(api: client.ApiClient, account: str) -> Iterator[None]:
    """A priority level of its own for the requests of an account."""
    objects = client.CustomObjectsApi(api)
    version = _version(api)
    shares = "assuredConcurrencyShares" if version in ("v1beta1", "v1beta2") else "nominalConcurrencyShares"
    head = {"apiVersion": f"{_GROUP}/{version}", "metadata": {"name": account}}
    level = {"type": "Limited", "limited": {shares: 1, "limitResponse": {"type": "Reject"}}}
    everything = {
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True,
    }  # fmt: skip
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": "default"}}
    schema = {
        "priorityLevelConfiguration": {"name": account},
        "matchingPrecedence": _PRECEDENCE,
        "rules": [{"subjects": [subject], "resourceRules": [everything]}],
    }
    made: list[tuple[str, dict[str, Any]]] = [
        ("prioritylevelconfigurations", head | {"kind": "PriorityLevelConfiguration", "spec": level}),
        ("flowschemas", head | {"kind": "FlowSchema", "spec": schema}),
    ]
    with contextlib.ExitStack() as stack:
        for plural, body in made:
            objects.create_cluster_custom_object(_GROUP, version, plural, body)
            stack.callback(objects.delete_cluster_custom_object, _GROUP, version, plural, account)
        yield


def _version(api: client.ApiClient) -> str:
    """The version of the API of priority and fairness; skips the test where there is none."""
    groups = {group.name: group for group in client.ApisApi(api).get_api_versions().groups}
    if _GROUP not in groups:
        pytest.skip("this API server has no priority and fairness")
    return str(groups[_GROUP].preferred_version.version)


class _Server:
    """The API server, as the account of a kubeconfig.

    Args:
        kubeconfig: has a token.
    """

    def __init__(self, kubeconfig: Path):
        given = json.loads(kubeconfig.read_text())
        cluster = given["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._address = urllib.parse.urlsplit(cluster["server"]).netloc
        self._headers = {"Authorization": f"Bearer {given['users'][0]['user']['token']}"}

    def hold_seat(self, namespace: str) -> http.client.HTTPSConnection:
        """Begin to make a Lease, without sending it."""
        connection = self._connect()
        connection.putrequest("POST", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
        for name, value in {**self._headers, "Content-Type": "application/json", "Content-Length": "1000"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def status(self, namespace: str) -> int:
        """The status of the answer to a request."""
        with contextlib.closing(self._connect()) as connection:
            connection.request("GET", f"/api/v1/namespaces/{namespace}/pods?limit=1", headers=self._headers)
            return connection.getresponse().status

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, context=self._tls, timeout=10)
