"""Supervisor under our command, with small programs of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import wait_until
from tests.run import processes
from tests.run.make_run import var_dir
from workers.run.supervision import Program, Supervisor, read_procfile


@pytest.fixture
def folder() -> Iterator[Path]:
    with var_dir() as made:
        yield made


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    (folder / "logs 100%").mkdir()
    programs = [
        Program("steady", "sleep 1000"),
        Program("stubborn", "sh -c 'trap : TERM; echo up; while :; do sleep 0.1; done'"),
        Program("broken", "sh -c 'echo again; exit 3'"),
    ]
    running = Supervisor(programs, log_dir=folder / "logs 100%", socket_dir=folder, environ=os.environ, stop_s=30)
    running.start()
    wait_until("it answers", running.answers)
    try:
        yield running
    finally:
        running.kill()


def status(supervisor: Supervisor, name: str) -> str:
    return next((state.status for state in supervisor.states() if state.name == name), "")


def pid(supervisor: Supervisor, name: str) -> int:
    return next((state.pid for state in supervisor.states() if state.name == name), 0)


def test_procfile_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# comment\n\nrelease: a b\nweb: gunicorn --bind x:1 app:application\n")

    found = read_procfile(tmp_path / "Procfile")

    assert found == [Program("release", "a b"), Program("web", "gunicorn --bind x:1 app:application")]


def test_wrong_line_of_a_procfile_is_named(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web gunicorn\n")

    with pytest.raises(ValueError, match="found 'web gunicorn'"):
        read_procfile(tmp_path / "Procfile")


def test_what_dies_is_started_again(supervisor: Supervisor) -> None:
    supervisor.start_program("steady")
    first = wait_until("it runs", lambda: status(supervisor, "steady") == "RUNNING" and pid(supervisor, "steady"))

    os.kill(first, 9)

    wait_until("another runs", lambda: pid(supervisor, "steady") not in (0, first))


def test_what_keeps_dying_is_tried_again_soon(supervisor: Supervisor, folder: Path) -> None:
    log = folder / "logs 100%" / "broken.log"
    supervisor.start_program("broken")
    wait_until("it waits", lambda: status(supervisor, "broken") == "BACKOFF")
    supervisor.hasten()
    tried = log.read_text().count("again")

    supervisor.hasten()

    wait_until("it was tried", lambda: log.read_text().count("again") > tried)


def test_program_that_ignores_sigterm_is_killed_at_the_deadline(supervisor: Supervisor, folder: Path) -> None:
    supervisor.start_program("stubborn")
    wait_until("it is up", lambda: "up" in (folder / "logs 100%" / "stubborn.log").read_text())
    wait_until("it runs", lambda: status(supervisor, "stubborn") == "RUNNING")

    supervisor.stop_programs(["stubborn"], time.monotonic() + 0.2, lambda: False)

    assert status(supervisor, "stubborn") == "STOPPED"


def test_programs_end_with_a_killed_supervisor(supervisor: Supervisor) -> None:
    supervisor.start_program("steady")
    steady = wait_until("it runs", lambda: status(supervisor, "steady") == "RUNNING" and pid(supervisor, "steady"))

    supervisor.kill()

    wait_until("it ended", lambda: steady not in processes.table(), 5)
