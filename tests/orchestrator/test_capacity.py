"""How many workers a host allows, from files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process.capacity import (
    available_memory,
    available_processes,
    host_capacity,
)
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

GIB = 1024 * MIB
MANY_FILES = 1 << 20


class Host:
    """The files of a host with control groups of version 2, or of version 1 for memory and processes."""

    def __init__(self, folder: Path, version: int, memory: int):
        self.proc, self.mount = folder / "proc", folder / "cgroup"
        self._version = version
        (self.proc / "self").mkdir(parents=True)
        (self.mount / "service/web").mkdir(parents=True)
        (self.proc / "meminfo").write_text(f"MemTotal: 999999999 kB\nMemAvailable:   {memory // 1024} kB\n")
        options = "rw" if version == 2 else "rw,memory,pids"
        kind, names = ("cgroup2", "") if version == 2 else ("cgroup", "memory,pids")
        (self.proc / "self/mountinfo").write_text(f"33 31 0:30 / {self.mount} rw - {kind} {kind} {options}\n")
        (self.proc / "self/cgroup").write_text(f"4:{names}:/service/web\n")

    def limit(self, group: str, memory: str) -> None:
        name = "memory.max" if self._version == 2 else "memory.limit_in_bytes"
        (self.mount / group / name).write_text(f"{memory}\n")

    def limit_processes(self, group: str, count: str) -> None:
        (self.mount / group / "pids.max").write_text(f"{count}\n")


@pytest.fixture(params=[1, 2])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Host:
    return Host(tmp_path, request.param, 24 * GIB)


def workers(host: Host, open_files: int = MANY_FILES, *, are_forked: bool = True, **settings: int) -> tuple[int, str]:
    chosen = Settings(**{"workers_memory": 1 << 50} | settings)
    found = host_capacity(chosen, open_files, host.proc, are_forked=are_forked)
    return found.workers, found.bound


@pytest.mark.parametrize("group", ["", "service", "service/web"])
def test_the_least_limit_of_all_groups_around_counts(host: Host, group: str) -> None:
    for other in ("", "service", "service/web"):
        host.limit(other, str(8 * GIB))
        host.limit_processes(other, "9000")
    host.limit(group, str(2 * GIB))
    host.limit_processes(group, "700")
    assert available_memory(host.proc) == 2 * GIB
    assert available_processes(host.proc) == 700


@pytest.mark.parametrize("none", ["max", str((1 << 63) - 4096), str((1 << 63) - 65536)])
def test_no_limit_is_none(host: Host, none: str) -> None:
    host.limit("service", none)
    host.limit_processes("service", "max")
    assert available_memory(host.proc) == 24 * GIB
    assert available_processes(host.proc) > 1_000_000


def test_version_1_says_the_limits_of_groups_that_are_not_seen(tmp_path: Path) -> None:
    host = Host(tmp_path, 1, 24 * GIB)
    (host.mount / "service/web/memory.stat").write_text(f"cache 1\nhierarchical_memory_limit {3 * GIB}\n")
    assert available_memory(host.proc) == 3 * GIB


def test_half_of_the_memory_is_for_workers(host: Host) -> None:
    host.limit("service", str(2 * GIB))
    assert workers(host) == (GIB // (8 * MIB), "memory")
    assert workers(host, are_forked=False) == (GIB // (21 * MIB), "memory")
    assert workers(host, workers_memory=256 * MIB) == (32, "memory")


def test_a_large_host_has_a_thousand_workers(host: Host) -> None:
    assert workers(host)[0] == 1000


def test_processes_and_open_files_bind_as_well(host: Host) -> None:
    assert workers(host, open_files=1024) == (128, "open files")
    host.limit_processes("service", "500")
    assert workers(host) == (50, "pids.max")


def test_a_small_host_has_a_few_workers(host: Host) -> None:
    host.limit("", str(32 * MIB))
    assert workers(host)[0] == 8


def test_a_host_without_control_groups(tmp_path: Path) -> None:
    host = Host(tmp_path, 2, GIB)
    (host.proc / "self/mountinfo").unlink()
    assert workers(host) == (64, "memory")
