"""Names of callbacks are resolved in threads of their own, and slow names of one project delay no other project."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import gevent
import gevent.socket
import pytest

from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.lookups import Lookups, resolve_name
from qinling_falcon.webhooks.sender import NotDelivered, Sender
from tests.models.factories import make_function
from tests.webhooks.deliveries import OTHER, OWNER, run
from tests.webhooks.receiver import Receiver
from tests.webhooks.sending import LOOPBACK


class SlowNames:
    """A name server that does not answer for names that begin with `slow`, until it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def look_up(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.go_on.wait(30)
        if host.startswith("unknown"):
            raise OSError("Name or service not known")
        return ["127.0.0.1"]


@pytest.fixture
def names() -> Iterator[SlowNames]:
    made = SlowNames()
    yield made
    made.go_on.set()


def resolve(lookups: Lookups, host: str, project_id: str) -> Sequence[str] | str:
    """The addresses, or the text of the error."""
    try:
        return lookups.resolve(host, 80, project_id)
    except OSError as error:
        return str(error)


def ask_slow_names(lookups: Lookups, project_id: str, count: int) -> list[gevent.Greenlet]:
    hosts = [f"slow-{number}.{project_id}" for number in range(count)]
    asking = [gevent.spawn(resolve, lookups, host, project_id) for host in hosts]
    gevent.sleep(0.05)
    return asking


def test_slow_names_of_one_project_do_not_delay_another_one(names: SlowNames) -> None:
    lookups = Lookups(names.look_up)
    asking = ask_slow_names(lookups, "a", 40)

    assert lookups.resolve("hooks.example", 80, "b") == ["127.0.0.1"]

    assert len(names.asked) == 4 + 1, "the project has so many threads"
    names.go_on.set()
    assert [greenlet.get(timeout=10) for greenlet in asking] == [["127.0.0.1"]] * 40


def test_slow_names_do_not_delay_other_lookups_of_the_process(names: SlowNames) -> None:
    lookups = Lookups(names.look_up)
    for number in range(8):
        ask_slow_names(lookups, f"project-{number}", 4)
    assert len(names.asked) == 32

    with gevent.Timeout(10):
        assert gevent.socket.getaddrinfo("localhost", 80)


def test_a_lookup_has_a_deadline_and_occupies_its_project_until_it_has_ended(names: SlowNames) -> None:
    lookups = Lookups(names.look_up, timeout_s=0.2)
    asking = ask_slow_names(lookups, "a", 4)
    assert {greenlet.get(timeout=10) for greenlet in asking} == {"its name was not resolved within 0.2 s"}

    with pytest.raises(TimeoutError):
        lookups.resolve("hooks.example", 80, "a")
    assert "hooks.example" not in names.asked

    names.go_on.set()
    assert lookups.resolve("hooks.example", 80, "a") == ["127.0.0.1"]


def test_requests_to_one_host_share_a_lookup(names: SlowNames) -> None:
    lookups = Lookups(names.look_up)
    asking = [gevent.spawn(lookups.resolve, "slow.example", 80, "a") for _ in range(10)]
    gevent.sleep(0.05)
    names.go_on.set()

    assert [greenlet.get(timeout=10) for greenlet in asking] == [["127.0.0.1"]] * 10
    assert names.asked == ["slow.example"]
    lookups.resolve("slow.example", 80, "a")
    assert len(names.asked) == 2, "nothing is remembered"


def test_an_address_needs_no_lookup(names: SlowNames) -> None:
    lookups = Lookups(names.look_up)

    assert [lookups.resolve(host, 80, "a") for host in ("127.0.0.1", "::1")] == [["127.0.0.1"], ["::1"]]

    assert names.asked == []


def test_an_unknown_name_is_an_error_for_each_caller(names: SlowNames) -> None:
    lookups = Lookups(names.look_up)
    asking = [gevent.spawn(resolve, lookups, "unknown.example", "a") for _ in range(2)]

    assert {greenlet.get(timeout=10) for greenlet in asking} == {"Name or service not known"}
    assert lookups.resolve("hooks.example", 80, "a") == ["127.0.0.1"]


def test_a_lookup_that_gets_no_thread_is_not_counted(names: SlowNames, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = Lookups(names.look_up, timeout_s=5)

    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patching:
        patching.setattr(lookups, "_threads", SimpleNamespace(spawn=refuse))
        for _ in range(5):
            with pytest.raises(RuntimeError):
                lookups.resolve("hooks.example", 80, "a")

    assert lookups.resolve("hooks.example", 80, "a") == ["127.0.0.1"]


def test_a_slow_name_is_a_failed_delivery(names: SlowNames) -> None:
    sender = Sender(LOOPBACK, Lookups(names.look_up, timeout_s=0.1).resolve)

    with pytest.raises(NotDelivered, match=r"its name was not resolved within 0\.1 s") as caught:
        sender.post("http://slow.example/", {}, b"{}", "a")

    assert not caught.value.is_final


def test_names_are_resolved_without_duplicates() -> None:
    assert resolve_name("127.0.0.1", 80) == ["127.0.0.1"]
    assert set(resolve_name("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r".+"):
        resolve_name("nothing.invalid", 80)


def test_a_callback_is_delivered_while_names_of_another_project_are_slow(
    runtime_id: str, receiving: Receiver, settings: Settings, names: SlowNames
) -> None:
    for number in range(12):
        run(make_function(OWNER, runtime_id, on_success=f"http://slow-{number}.example/").id)
    url = receiving.url(host="hooks.example")
    run(make_function(OTHER, runtime_id, on_success=url).id, project_id="project-b")
    delivering = Callbacks(settings, ExecutionShown().show, Sender(settings, Lookups(names.look_up).resolve))
    delivering.deliver_due(budget_s=0.1)
    give_up = time.monotonic() + 4  # less than the deadline of a lookup
    while not receiving.received and time.monotonic() < give_up:
        gevent.sleep(0.01)
    try:
        assert len(receiving.received) == 1
    finally:
        names.go_on.set()
        delivering.close(10)
