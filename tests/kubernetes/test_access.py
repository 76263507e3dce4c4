"""The shipped Role: it suffices, and nothing in it is unused.

All tests of this folder run with this Role (see `namespaces.py`), so each of them fails if a right is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.service import running_service, wait_until
from tests.kubernetes.access import shipped_rights
from tests.kubernetes.namespaces import Namespace
from tests.kubernetes.recorder import recording


def test_a_service_uses_each_right_of_its_role_and_no_others(namespace: Namespace, tmp_path: Path) -> None:
    settings = namespace.settings()
    with recording(namespace.kubeconfig, tmp_path / "kubeconfig") as seen:
        settings["kubernetes_config"] = tmp_path / "kubeconfig"
        with running_service(**settings, max_workers=4) as service:
            runtime = service.runtime()
            function = service.function("def main():\n    return 1\n")
            assert service.call(function)["status"] == "success"
            assert service.request("DELETE", f"/v1/functions/{function}").status_code == 204
            assert service.request("DELETE", f"/v1/runtimes/{runtime}").status_code == 204
            wait_until("the pods of the deleted runtime are gone", lambda: not namespace.pods(), timeout_s=90)

    assert seen.rights == set(shipped_rights())
    assert seen.refused == []


def test_a_service_has_no_rights_elsewhere(namespace: Namespace) -> None:
    with config.new_client_from_config(str(namespace.kubeconfig)) as api:
        core = client.CoreV1Api(api)
        assert core.list_namespaced_pod(namespace.name).items is not None
        for forbidden in (
            lambda: core.list_namespaced_pod("default"),
            lambda: core.list_namespaced_secret(namespace.name),
            lambda: core.list_node(),
        ):
            with pytest.raises(ApiException) as refused:
                forbidden()
            assert refused.value.status == 403
