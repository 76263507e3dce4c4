"""All pods of functions satisfy the Pod Security Standard `restricted`, and have the other limits that isolate them.

The clusters of the other tests have no PodSecurity admission, so the rules are checked here, one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from qinling_falcon.orchestrators.base import RuntimeImage, SingleUse
from qinling_falcon.orchestrators.image_runs import ImageRun
from qinling_falcon.orchestrators.kubernetes.image_pods import make_image_pod
from qinling_falcon.orchestrators.kubernetes.manifests import Manifests
from qinling_falcon.orchestrators.kubernetes.worker_secrets import WorkerSecrets
from qinling_falcon.settings import Settings
from tests.support.pod_security import RESTRICTED, broken_rules

KEY = Fernet.generate_key().decode()


def worker_pod(*, trusted: bool = True, **settings: Any) -> dict[str, Any]:
    """The template of a runtime's pods."""
    manifests = Manifests(Settings(secret_keys=KEY, **settings), WorkerSecrets([KEY]))
    made = manifests.make(RuntimeImage("r1", "python3", trusted), "registry.example/qinling-python3:1", 2)
    return dict(made.deployment["spec"]["template"])


def image_pod(**settings: Any) -> dict[str, Any]:
    """The pod of one execution of a function from an image."""
    lease = SingleUse("web", "lease")
    run = ImageRun("e1", "w1", lease, "f1", "registry.example/any:1", ("echo", "hello"), 100, 64 << 20, 30)
    return make_image_pod(run, Settings(secret_keys=KEY, **settings))


@pytest.mark.parametrize("rule", RESTRICTED)
@pytest.mark.parametrize("trusted", [True, False])
def test_worker_pods_satisfy_the_rule(rule: str, trusted: bool) -> None:
    assert RESTRICTED[rule](worker_pod(trusted=trusted, kubernetes_runtime_class="gvisor"))


@pytest.mark.parametrize("rule", RESTRICTED)
def test_pods_of_functions_from_images_satisfy_the_rule(rule: str) -> None:
    assert RESTRICTED[rule](image_pod(kubernetes_runtime_class="gvisor"))


def _of_container(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["containers"][0].update(fields)


def _of_context(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["containers"][0]["securityContext"].update(fields)


def _of_pod(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"].update(fields)


def _of_pod_context(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["securityContext"].update(fields)


@pytest.mark.parametrize(
    ("rule", "breaking"),
    [
        ("HostProcess", _of_pod_context(windowsOptions={"hostProcess": True})),
        ("Host Namespaces", _of_pod(hostPID=True)),
        ("Privileged Containers", _of_context(privileged=True)),
        ("Capabilities", _of_context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]})),
        ("Capabilities", _of_context(capabilities={})),
        ("Host Ports", _of_container(ports=[{"containerPort": 9090, "hostPort": 9090}])),
        ("Host Probes / Lifecycle Hooks", _of_container(readinessProbe={"httpGet": {"host": "10.0.0.1", "port": 80}})),
        ("AppArmor", _of_context(appArmorProfile={"type": "Unconfined"})),
        ("SELinux", _of_context(seLinuxOptions={"type": "spc_t"})),
        ("/proc Mount Type", _of_context(procMount="Unmasked")),
        ("Sysctls", _of_pod_context(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
        ("Volume Types", _of_pod(volumes=[{"name": "host", "hostPath": {"path": "/"}}])),
        ("Privilege Escalation", _of_context(allowPrivilegeEscalation=True)),
        ("Running as Non-root", _of_pod_context(runAsNonRoot=None)),
        ("Running as Non-root user", _of_context(runAsUser=0)),
        ("Seccomp", _of_pod_context(seccompProfile={"type": "Unconfined"})),
        ("Seccomp", _of_pod_context(seccompProfile={})),
    ],
)
def test_the_rule_finds_a_pod_that_breaks_it(rule: str, breaking: Callable[[dict[str, Any]], None]) -> None:
    pod = copy.deepcopy(worker_pod())

    breaking(pod)

    assert broken_rules(pod) == [rule]


@pytest.mark.parametrize("make", [worker_pod, image_pod])
def test_pods_have_more_limits_than_the_standard_asks_for(make: Callable[[], dict[str, Any]]) -> None:
    pod = make()
    spec, [container] = pod["spec"], pod["spec"]["containers"]

    assert spec["automountServiceAccountToken"] is False, "a function must not talk to the API server"
    assert spec["enableServiceLinks"] is False, "a function must not learn what else runs in the cluster"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert {"cpu", "memory"} == container["resources"]["requests"].keys()
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"])


@pytest.mark.parametrize(("trusted", "text"), [(True, "true"), (False, "false")])
def test_pods_say_whether_their_runtime_is_trusted(trusted: bool, text: str) -> None:
    annotations = worker_pod(trusted=trusted)["metadata"]["annotations"]

    assert annotations["io.kubernetes.cri-o.TrustedSandbox"] == text


def test_pods_of_functions_from_images_are_never_trusted() -> None:
    pod = image_pod(kubernetes_runtime_class="gvisor")

    assert pod["metadata"]["annotations"]["io.kubernetes.cri-o.TrustedSandbox"] == "false"
    assert pod["spec"]["runtimeClassName"] == "gvisor"


def test_only_pods_of_runtimes_that_are_not_trusted_get_the_runtime_class() -> None:
    assert worker_pod(trusted=False, kubernetes_runtime_class="gvisor")["spec"]["runtimeClassName"] == "gvisor"
    assert "runtimeClassName" not in worker_pod(trusted=True, kubernetes_runtime_class="gvisor")["spec"]
    assert "runtimeClassName" not in worker_pod(trusted=False)["spec"]
