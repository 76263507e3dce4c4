"""The Deployments of runtimes, with an API server that only notes what it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from qinling_falcon.orchestrators.base import RuntimeImage
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiError
from qinling_falcon.orchestrators.kubernetes.changes import Changes
from qinling_falcon.orchestrators.kubernetes.images import PodImages
from qinling_falcon.orchestrators.kubernetes.manifests import Manifests
from qinling_falcon.orchestrators.kubernetes.runtime_pods import RuntimePods
from qinling_falcon.orchestrators.kubernetes.worker_secrets import WorkerSecrets
from qinling_falcon.settings import Settings

ONE, TWO = (RuntimeImage(runtime_id, "python3") for runtime_id in ("one", "two"))


class Api:
    """Keeps the names of objects. It is no API server: it answers with what it was given."""

    def __init__(self) -> None:
        self.objects: set[str] = set()
        self.refused: set[str] = set()
        self.versions = 0

    def apply(self, path: str, body: Any) -> Any:
        name = "/".join(path.split("/")[-2:])
        if name in self.refused:
            raise ApiError(403, "Forbidden", "exceeded quota: objects")
        self.objects.add(name)
        self.versions += 1
        return body | {"metadata": body["metadata"] | {"resourceVersion": str(self.versions)}}

    def delete(self, path: str) -> bool:
        name = "/".join(path.split("/")[-2:])
        if name in self.refused:
            raise ApiError(403, "Forbidden", "not now")
        self.objects.discard(name)
        return True


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def pods(api: Api) -> RuntimePods:
    settings = Settings(secret_keys=Fernet.generate_key().decode())
    manifests = Manifests(settings, WorkerSecrets(settings.secret_key_list))
    made = RuntimePods(api, settings, manifests, PodImages(settings), Changes())  # type: ignore[arg-type]
    made.watch._was_listed.set()
    return made


def of(runtime: RuntimeImage) -> set[str]:
    name = names.runtime_name(runtime.runtime_id)
    return {f"deployments/{name}", f"secrets/{name}"}


def test_a_refused_deployment_keeps_no_other_from_being_made_and_is_the_trouble_of_its_runtime(
    pods: RuntimePods, api: Api
) -> None:
    api.refused = {f"deployments/{names.runtime_name('one')}"}

    pods.prepare([ONE, TWO])

    assert of(TWO) <= api.objects
    trouble = pods.trouble("one")
    assert trouble is not None and "exceeded quota: objects" in trouble.reason
    assert pods.trouble("two") is None

    api.refused = set()
    pods.prepare([ONE, TWO])

    assert of(ONE) <= api.objects
    assert pods.trouble("one") is None


def test_nothing_is_left_of_a_runtime_that_is_gone_also_if_its_deployment_was_never_made(
    pods: RuntimePods, api: Api
) -> None:
    api.refused = {f"deployments/{names.runtime_name('one')}"}
    pods.prepare([ONE, TWO])
    api.refused = set()

    pods.prepare([])

    assert api.objects == set()


def test_a_deployment_stays_until_its_secret_is_deleted(pods: RuntimePods, api: Api) -> None:
    """The Deployment is what brings the next manager here."""
    pods.prepare([ONE])
    api.refused = {f"secrets/{names.runtime_name('one')}"}

    pods.prepare([])

    assert of(ONE) <= api.objects
