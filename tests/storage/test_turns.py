"""Turns limit concurrent work and share it fairly between projects; and no kind of work waits for another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.storage import spool
from qinling_falcon.storage.turns import TooManyWait, Turns, WaitedTooLong

ROOT = Path(__file__).parents[2]


class Uploads:
    """Fake checks of uploads. Each one runs until the test releases it."""

    def __init__(self, turns: Turns):
        self.turns = turns
        self.checked: list[str] = []
        self.greenlets: dict[str, gevent.Greenlet] = {}
        self.ends: dict[str, Event] = {}

    def begin(self, *names: str) -> None:
        """Start uploads. The first letter of a name is the project."""
        for name in names:
            self.ends[name] = Event()
            self.greenlets[name] = gevent.spawn(self._check, name)
        gevent.sleep(0)

    def end(self, name: str) -> None:
        self.ends[name].set()
        self.greenlets[name].join(5)

    def end_all(self) -> None:
        for name in self.ends:
            self.ends[name].set()
        gevent.joinall(list(self.greenlets.values()), timeout=5)

    def _check(self, name: str) -> str:
        try:
            with self.turns.turn(name[0]):
                self.checked.append(name)
                self.ends[name].wait()
        except (TooManyWait, WaitedTooLong) as error:
            return type(error).__name__
        return "checked"


@pytest.mark.parametrize(("cores", "share"), [(1, 1), (2, 1), (4, 3)])
def test_one_project_leaves_a_check_to_the_others(monkeypatch: pytest.MonkeyPatch, cores: int, share: int) -> None:
    monkeypatch.setattr(spool, "CORES", cores)
    uploads = Uploads(spool.check_turns())
    try:
        uploads.begin(*(f"a{number}" for number in range(6)), "b")
        assert uploads.checked == [*(f"a{number}" for number in range(share)), *["b"] * (cores > share)]
    finally:
        uploads.end_all()


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads(Turns(width=2, share=2, most_of_project=4, patience_s=30))
    yield made
    made.end_all()


def test_as_many_are_checked_at_once_as_there_are_cores(uploads: Uploads) -> None:
    uploads.begin("a1", "a2", "a3", "a4")
    assert uploads.checked == ["a1", "a2"]
    uploads.end("a1")
    assert uploads.checked == ["a1", "a2", "a3"]


def test_projects_take_turns(uploads: Uploads) -> None:
    uploads.begin("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    for name in ("a1", "a2", "a3", "b1", "c1"):
        uploads.end(name)
    assert uploads.checked == ["a1", "a2", "a3", "b1", "c1", "a4", "b2"]


def test_a_project_has_its_share_at_most(uploads: Uploads) -> None:
    uploads.turns = Turns(width=3, share=2, most_of_project=4, patience_s=30)
    uploads.begin("a1", "a2", "a3")
    assert uploads.checked == ["a1", "a2"]
    uploads.begin("b1", "b2")
    assert uploads.checked == ["a1", "a2", "b1"]
    uploads.end("b1")
    assert uploads.checked == ["a1", "a2", "b1", "b2"]
    uploads.end("a1")
    assert uploads.checked == ["a1", "a2", "b1", "b2", "a3"]


def test_too_many_of_one_project_are_refused_and_none_of_another(uploads: Uploads) -> None:
    uploads.begin("a1", "a2", "a3", "a4", "a5", "b1")
    assert uploads.greenlets["a5"].value == "TooManyWait"
    uploads.end("a1")
    uploads.begin("a6")
    assert not uploads.greenlets["a6"].ready()
    uploads.end_all()
    assert [greenlet.value for name, greenlet in uploads.greenlets.items() if name != "a5"] == ["checked"] * 6


def test_a_wait_is_bounded_and_leaves_nothing(uploads: Uploads) -> None:
    uploads.turns = Turns(width=1, share=1, most_of_project=4, patience_s=0.1)
    uploads.begin("a1", "a2", "b1")
    for name in ("a2", "b1"):
        uploads.greenlets[name].join(5)
        assert uploads.greenlets[name].value == "WaitedTooLong"
    uploads.end("a1")
    uploads.begin("a3")
    assert uploads.checked == ["a1", "a3"]


def test_the_turn_of_a_killed_upload_goes_to_the_next_one(uploads: Uploads) -> None:
    uploads.begin("a1", "a2", "a3", "a4", "b1")
    uploads.greenlets["a3"].kill()  # while it waits
    uploads.ends["a1"].set()
    uploads.greenlets["a1"].join(5)
    gevent.sleep(0)
    assert uploads.checked == ["a1", "a2", "a4"]
    uploads.end("a2")
    assert uploads.checked == ["a1", "a2", "a4", "b1"]


def test_a_turn_is_passed_on_when_its_waiter_is_killed_as_it_gets_it() -> None:
    turns = Turns(width=1, share=1, most_of_project=4, patience_s=1)

    def take() -> None:
        with turns.turn("a"):
            pass

    with turns.turn("a"):
        waiter = gevent.spawn(take)
        gevent.sleep(0)
        waiter.kill(block=False)  # the hub throws it when it runs next, and by then the turn is the waiter's
    waiter.join(5)
    take()


def run(script: str) -> str:
    """Run a program with gevent's patches, as in `web`. Returns its output."""
    head = "from gevent import monkey\nmonkey.patch_all()\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_kind_of_work_waits_for_another_nor_does_a_look_up_of_a_name() -> None:
    printed = run("""
import gevent, socket
from qinling_falcon.storage.offload import CORES, Work, offload

lock = monkey.get_original("_thread", "allocate_lock")()
lock.acquire()
started = []

def held():
    started.append(1)
    lock.acquire()
    lock.release()

for held_kind in Work:
    held_up = [gevent.spawn(offload, held_kind, held) for _ in range(50)]
    while len(started) < CORES:
        gevent.sleep(0.001)
    with gevent.Timeout(20):
        for kind in Work:
            if kind is not held_kind:
                offload(kind, int)
        gevent.get_hub().threadpool.apply(int)
        socket.getaddrinfo("localhost", 80)
    print(len(started) == CORES)
    lock.release()
    gevent.joinall(held_up)
    lock.acquire()
    started.clear()
""")
    assert printed.split() == ["True"] * 3


def test_packages_are_read_while_uploads_are_checked_and_uploaded_while_packages_are_read(tmp_path: Path) -> None:
    printed = run(f"""
import gevent, io
from pathlib import Path
from qinling_falcon.storage.archive import ArchiveLimits
from qinling_falcon.storage.offload import CORES, Work, offload
from qinling_falcon.storage.packages import LocalPackages
from tests.storage.archives import make_zip

packages = LocalPackages(Path({str(tmp_path)!r}), ArchiveLimits(10, 1000))
package = make_zip({{"main.py": b"x"}})
key = packages.save(io.BytesIO(package), 1000, project_id="p").key
lock = monkey.get_original("_thread", "allocate_lock")()

def held():
    lock.acquire()
    lock.release()

for kind in (Work.CHECK, Work.READ):
    lock.acquire()
    held_up = [gevent.spawn(offload, kind, held) for _ in range(CORES)]
    gevent.sleep(0.01)
    with gevent.Timeout(20):
        if kind is Work.CHECK:
            print(packages.read(key) == package)
        else:
            print(packages.save(io.BytesIO(package), 1000, project_id="p").size == len(package))
    lock.release()
    gevent.joinall(held_up)
""")
    assert printed.split() == ["True", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, threads have no priority of their own")
def test_checks_give_way_to_all_other_work() -> None:
    printed = run("""
import os
from qinling_falcon.storage.offload import Work, offload

for kind in Work:
    print(kind.value, offload(kind, os.getpriority, os.PRIO_PROCESS, 0) - os.getpriority(os.PRIO_PROCESS, 0))
""")
    assert printed.split() == ["check", "10", "read", "0", "write", "0"]
