"""The pods of functions from images: what they are made of, and what is read from them."""

from __future__ import annotations

from typing import Any

import pytest

from qinling_falcon.orchestrators.base import SingleUse
from qinling_falcon.orchestrators.image_runs import EndKind, ImageRun
from qinling_falcon.orchestrators.kubernetes.image_pods import make_image_pod, read_image_pod
from qinling_falcon.settings import Settings

EXECUTION = "0190f2c4-0000-7000-8000-000000000001"


def run(*arguments: str) -> ImageRun:
    return ImageRun(EXECUTION, "w1", SingleUse("web:1", "w1:7"), "f1", "a/b:1", arguments, 200, 67108864, 5)


def spec_of(*arguments: str, **settings: Any) -> dict[str, Any]:
    spec: dict[str, Any] = make_image_pod(run(*arguments), Settings(**settings))["spec"]
    return spec


def test_requests_and_limits_are_those_of_the_function() -> None:
    [container] = spec_of()["containers"]

    assert container["resources"]["requests"] == {"cpu": "200m", "memory": "67108864"}
    assert container["resources"]["limits"].items() >= container["resources"]["requests"].items()


def test_arguments_reach_the_program_as_they_are() -> None:
    """The cluster would replace variables, and `$$`."""
    [container] = spec_of("$(HOME)", "$$", "a b")["containers"]

    assert container["args"] == ["$$(HOME)", "$$$$", "a b"]


def test_without_arguments_the_image_runs_its_own_command() -> None:
    [container] = spec_of()["containers"]

    assert "args" not in container and "command" not in container


def test_the_pod_is_restricted() -> None:
    spec = spec_of(kubernetes_runtime_class="gvisor", kubernetes_function_pull_secrets="one,two")
    [container] = spec["containers"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]


def test_the_secrets_for_the_images_of_runtimes_are_not_for_the_images_of_users() -> None:
    assert "imagePullSecrets" not in spec_of(kubernetes_pull_secrets="one")


def test_the_cluster_ends_a_pod_that_nothing_else_ends() -> None:
    assert spec_of(kubernetes_start_timeout_s=60)["activeDeadlineSeconds"] > 60 + 5


def test_the_next_attempt_waits_for_the_end_of_the_container() -> None:
    """The API server removes pods without a grace before their containers have ended."""
    assert spec_of(kubernetes_pod_grace_s=0)["terminationGracePeriodSeconds"] == 1
    assert spec_of(kubernetes_pod_grace_s=5)["terminationGracePeriodSeconds"] == 5


def test_its_name_is_that_of_the_execution_for_all_attempts() -> None:
    assert make_image_pod(run(), Settings())["metadata"]["name"] == f"execution-{EXECUTION}"


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {"qinling-falcon/worker": "w1"}
    return {"metadata": {"name": "n", "uid": "u", "labels": labels, **metadata}, "status": status}


def terminated(**fields: Any) -> dict[str, Any]:
    times = {"startedAt": "2024-01-01T00:00:00Z", "finishedAt": "2024-01-01T00:00:03Z"}
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": times | fields}}]}


@pytest.mark.parametrize(
    ("fields", "kind", "has_started"),
    [
        ({"exitCode": 0, "reason": "Completed"}, EndKind.SUCCEEDED, True),
        ({"exitCode": 3, "reason": "Error"}, EndKind.FAILED, True),
        ({"exitCode": 137, "reason": "OOMKilled"}, EndKind.OUT_OF_MEMORY, True),
        ({"exitCode": 128, "reason": "StartError", "message": "no such file"}, EndKind.UNUSABLE, False),
    ],
)
def test_the_end_of_a_container(fields: dict[str, Any], kind: EndKind, has_started: bool) -> None:
    read = read_image_pod(pod(terminated(**fields)))

    assert read.end is not None
    assert (read.end.kind, read.end.exit_status, read.has_started) == (kind, fields["exitCode"], has_started)
    assert read.end.ran_s == (3 if has_started else 0)
    assert str(fields.get("message", "")) in read.end.reason


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", EndKind.TIMED_OUT),
        ("Evicted", 'Usage of EmptyDir volume "tmp" exceeds the limit "64Mi".', EndKind.OUT_OF_DISK),
        ("Evicted", "The node was low on resource: memory.", None),
        ("Terminated", "Pod was terminated in response to imminent node shutdown.", None),
    ],
)
def test_the_reason_of_the_pod_comes_before_that_of_its_container(
    reason: str, message: str, kind: EndKind | None
) -> None:
    status = terminated(exitCode=137, reason="Error") | {"reason": reason, "message": message}

    read = read_image_pod(pod(status))

    assert read.end is not None
    assert (read.end.kind, read.end.reason) == (kind, f"{reason}: {message}")


@pytest.mark.parametrize(
    ("reason", "is_final"), [("ErrImagePull", False), ("InvalidImageName", True), ("ErrImageNeverPull", True)]
)
def test_a_container_that_can_not_start(reason: str, is_final: bool) -> None:
    waiting = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "m"}}}]}

    read = read_image_pod(pod(waiting))

    assert read.trouble is not None
    assert (read.trouble.reason, read.trouble.is_final) == (f"{reason}: m", is_final)
    assert (read.has_started, read.end) == (False, None)


def test_a_pod_that_is_on_its_way() -> None:
    starting = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}
    for status in ({}, {"phase": "Pending"}, starting):
        read = read_image_pod(pod(status))
        assert (read.has_started, read.end, read.trouble, read.is_unschedulable) == (False, None, None, False)

    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert read_image_pod(pod({"phase": "Pending", "conditions": [condition]})).is_unschedulable
    assert read_image_pod(pod({}, deletionTimestamp="2024-01-01T00:00:00Z")).is_being_deleted
    running = {"phase": "Running", "containerStatuses": [{"state": {"running": {"startedAt": "x"}}}]}
    assert read_image_pod(pod(running)).has_started
