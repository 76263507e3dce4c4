"""A runtime's image changes while calls go on. Functions of these tests can tell what their worker was made from."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from qinling_falcon.pool import keys
from tests.integration.service import ROOT, Service, running_service, wait_until
from tests.integration.test_changes_under_load import User, until_done
from tests.support.orchestrators import make_pod_images

pytestmark = pytest.mark.xdist_group("image-updates")

MOST, STOCK = 8, 2
TELLS_ITS_IMAGE = """
import time
def main(seconds=0):
    time.sleep(seconds)
    return IMAGE
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With images `one` and `two`, which put their name among the builtins, and `broken`, which ends at once."""
    folder = tmp_path_factory.mktemp("runtimes")
    folder.chmod(0o755)
    images = ("one", "two", "broken")
    for image in images:
        shutil.copytree(ROOT / "runtimes" / "python3", folder / image, ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / image / "qinling_worker" / "__init__.py").open("a") as module:
            module.write(f"import builtins\nbuiltins.IMAGE = {image!r}\n")
    (folder / "broken" / "worker.py").write_text("raise SystemExit(3)\n")
    pod_images = make_pod_images(folder, images)
    table = "".join(
        f'[runtimes.{image}]\nimages = ["{image}"]\nprogram = "{image}/worker.py"\n{pod_images[image]}'
        for image in images
    )
    (folder / "runtimes.toml").write_text(table)
    settings: dict[str, Any] = {"max_workers": MOST, "warm_workers": STOCK}
    settings |= {"function_concurrency": MOST, "project_concurrency": MOST}
    with running_service(runtimes_file=folder / "runtimes.toml", **settings) as running:
        yield running


@pytest.fixture
def runtime_id(service: Service) -> Iterator[str]:
    """The one runtime, available with image `one`."""
    runtime_id = service.runtime("one")
    yield runtime_id
    for row in service.request("GET", "/v1/functions").json():
        assert service.request("DELETE", f"/v1/functions/{row['id']}").status_code == 204
    assert service.request("DELETE", f"/v1/runtimes/{runtime_id}").status_code == 204
    wait_until("it is gone", lambda: service.request("GET", f"/v1/runtimes/{runtime_id}").status_code == 404)


class Calls:
    """Calls of some functions in turn, none of which may fail; `image` is the one of the last call's worker."""

    def __init__(self, service: Service, functions: list[str], seconds: float = 0.02):
        self._functions = itertools.cycle(functions)
        self._seconds = seconds
        self.count = 0

    def call(self, user: User) -> str:
        answer = user.call(function_id=next(self._functions), input={"seconds": self._seconds})
        assert (answer.status_code, answer.json()["status"]) == (201, "success"), answer.text
        self.count += 1
        return str(json.loads(answer.json()["result"])["output"])


def put_image(user: User, runtime_id: str, image: str) -> requests.Response:
    return user.send("PUT", f"/v1/runtimes/{runtime_id}", json={"image": image})


def await_available(user: User, runtime_id: str, timeout_s: float = 60) -> dict[str, Any]:
    def available() -> dict[str, Any] | None:
        row: dict[str, Any] = user.send("GET", f"/v1/runtimes/{runtime_id}").json()
        return row if row["status"] == "available" else None

    return dict(wait_until("it is available", available, timeout_s))


def worker_images(service: Service) -> set[str]:
    """What the workers that Redis knows were made from."""
    with redis.Redis.from_url(service.environ["REDIS_URL"], decode_responses=True) as connection:
        known = connection.smembers(keys.WORKERS)
        return {str(connection.hget(f"qf:{{pool}}:worker:{worker}", "image")) for worker in known}


@pytest.mark.parametrize(
    ("functions", "callers"),
    [
        pytest.param(3, 3, id="with room for more workers"),
        pytest.param(1, 12, id="all of MAX_WORKERS busy with one function"),
        pytest.param(12, 4, id="more functions than MAX_WORKERS"),
    ],
)
def test_no_call_fails_while_the_image_changes_and_later_ones_run_on_it(
    service: Service, runtime_id: str, functions: int, callers: int
) -> None:
    calls = Calls(service, [service.function(TELLS_ITS_IMAGE, runtime_id=runtime_id) for _ in range(functions)])
    updated = False

    def update(user: User) -> None:
        nonlocal updated
        wait_until("calls run", lambda: calls.count > 2 * callers)
        assert put_image(user, runtime_id, "two").status_code == 200
        assert put_image(user, runtime_id, "one").status_code == 409
        await_available(user, runtime_id)
        updated = True
        seen = calls.count
        wait_until("calls go on", lambda: calls.count > seen + 2 * callers)

    def call(user: User) -> None:
        must_be_new = updated
        image = calls.call(user)
        assert image == "two" or not must_be_new

    until_done(service, update, *[call] * callers)
    wait_until("no old worker is left", lambda: worker_images(service) == {"two"})
    wait_until("the stock is full, or all there may be are there", lambda: is_full(service, runtime_id))


def is_full(service: Service, runtime_id: str) -> bool:
    capacity = service.capacity(runtime_id)
    assert capacity["total"] <= MOST
    return capacity["available"] >= STOCK


@pytest.mark.parametrize(("image", "why"), [("nowhere/no-such", "no-such"), ("broken", "3")])
def test_a_failing_image_leaves_the_old_one_serving_and_says_why(
    service: Service, runtime_id: str, image: str, why: str
) -> None:
    calls = Calls(service, [service.function(TELLS_ITS_IMAGE, runtime_id=runtime_id) for _ in range(2)])

    def update(user: User) -> None:
        wait_until("calls run", lambda: calls.count > 8)
        assert put_image(user, runtime_id, image).status_code == 200
        row = await_available(user, runtime_id)
        assert row["image"] == "one"
        assert why in row["status_reason"]

    def call(user: User) -> None:
        assert calls.call(user) == "one"

    until_done(service, update, *[call] * 3)
    assert worker_images(service) == {"one"}


def test_a_manager_that_is_killed_in_between_is_followed_by_one_that_goes_on(service: Service, runtime_id: str) -> None:
    function_id = service.function(TELLS_ITS_IMAGE, runtime_id=runtime_id)
    assert put_image(User(service), runtime_id, "two").status_code == 200
    wait_until("the image has proved itself", lambda: "two" in worker_images(service))
    service.stop("pool", signal.SIGKILL)
    service.start_pool()
    await_available(User(service), runtime_id)
    wait_until("no old worker is left", lambda: worker_images(service) == {"two"} and is_full(service, runtime_id))
    assert Calls(service, [function_id]).call(User(service)) == "two"


@pytest.mark.parametrize("act", ["detach", "scale_down"])
def test_ending_workers_of_a_function_that_is_called_loses_no_call(service: Service, runtime_id: str, act: str) -> None:
    function_id = service.function(TELLS_ITS_IMAGE, runtime_id=runtime_id)
    calls = Calls(service, [function_id])

    def end_workers(user: User) -> None:
        for _ in range(8):
            wait_until("calls go on", lambda seen=calls.count: calls.count > seen + 12)
            answer = user.send("POST", f"/v1/functions/{function_id}/{act}")
            assert answer.status_code == 202, answer.text

    until_done(service, end_workers, *[calls.call] * 4)
