"""A new manager ends what an earlier one of the same install left, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process.cgroups import Subtree, hierarchies
from qinling_falcon.orchestrators.process.child_group import Limits
from qinling_falcon.orchestrators.process.install import Install
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings, SettingsError
from tests.support.control_groups import remove_groups_of

from .conftest import Manager, attempt, eventually, groups_of, install_id, left_of, marked, processes

MakeOrchestrator = Callable[[Settings], ProcessOrchestrator]


def groups_can_be_made() -> bool:
    return any(os.access(hierarchy.parent, os.W_OK) for hierarchy in hierarchies())


@pytest.fixture
def leftovers() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def leave(settings: Settings, made: list[subprocess.Popen[bytes]], *, in_group: bool) -> subprocess.Popen[bytes]:
    """A process such as a killed manager could leave."""
    name = install_id(settings)
    mark = "x" if in_group else f"qf_worker={name}/w9/"
    process = subprocess.Popen([sys.executable, "-X", mark, "-c", "import time; time.sleep(600)"])
    made.append(process)
    if in_group:
        group = Subtree(name, hierarchies()).make_group("w8", Limits(64 * MIB, 10))
        for folder in groups_of(settings):
            (folder / "cgroup.procs").write_text(str(process.pid))
        assert group.processes() == {process.pid}
    (settings.var_dir / "workers" / "w9" / "code").mkdir(parents=True, exist_ok=True)
    return process


@pytest.mark.parametrize("in_group", [True, False], ids=["by control group", "by mark"])
def test_own_leftovers_are_swept_and_others_are_not(
    settings: Settings,
    make_orchestrator: MakeOrchestrator,
    leftovers: list[subprocess.Popen[bytes]],
    in_group: bool,
) -> None:
    if in_group and not groups_can_be_made():
        pytest.skip("no control groups that this user may make")
    others = dataclasses.replace(settings, var_dir=settings.var_dir.with_name("other"))
    for each in (settings, others):
        make_orchestrator(each).detach()
    ours, theirs = (leave(each, leftovers, in_group=in_group) for each in (settings, others))
    make_orchestrator(settings)
    assert ours.wait(10) == -9
    assert left_of(settings) == []
    assert theirs.poll() is None
    assert left_of(others)
    make_orchestrator(others)
    assert theirs.wait(10) == -9


def test_a_copied_folder_is_another_install(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    first = make_orchestrator(settings)
    worker = first.start("w1", "probe")
    copy = dataclasses.replace(settings, var_dir=settings.var_dir.with_name("copy"))
    shutil.copytree(settings.var_dir, copy.var_dir)
    make_orchestrator(copy)
    assert first.events() == []
    assert attempt(worker, "answer = 1") == 1


def test_what_outlives_a_plain_worker_is_swept(
    settings: Settings, make_orchestrator: MakeOrchestrator, make_manager: Callable[..., Manager]
) -> None:
    settings = dataclasses.replace(settings, sandbox="rlimits")
    manager = make_manager(settings)
    (worker,) = manager.start("w1")
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid(); os.closerange(0, 64); time.sleep(600)\nanswer = 1"
    assert attempt(worker, daemon) == 1
    # Its guard first, which would have ended them: the machine was short of memory, say.
    (guard,) = [seen for seen in processes() if f"process.guard {install_id(settings)}" in seen.words]
    os.kill(guard.pid, signal.SIGKILL)
    manager.process.kill()
    # The supervisor ends with its manager; what user code put into the background does not, without a namespace.
    assert eventually(lambda: len(marked(settings)) == 1)
    make_orchestrator(settings)
    assert left_of(settings) == []


@pytest.mark.skipif(not groups_can_be_made(), reason="no control groups that this user may make")
@pytest.mark.parametrize("what", ["subtree", "worker's group"])
def test_empty_groups_of_a_killed_manager_are_removed(
    settings: Settings, make_orchestrator: MakeOrchestrator, what: str
) -> None:
    make_orchestrator(settings).detach()
    subtree = Subtree(install_id(settings), hierarchies())
    if what == "worker's group":
        subtree.make_group("w9", Limits(64 * MIB, 10), Limits(64 * MIB, 10))
    make_orchestrator(settings).detach()
    assert not [folder for folder in subtree.folders if folder.exists()]


@pytest.mark.skipif(not groups_can_be_made(), reason="no control groups that this user may make")
def test_an_orchestrator_that_can_not_start_leaves_no_groups(settings: Settings) -> None:
    settings.runtimes_file.write_text("wrong")
    with pytest.raises(SettingsError):
        ProcessOrchestrator(settings)
    subtree = f"qinling-falcon-{install_id(settings)}"
    assert not [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(subtree)]


@pytest.mark.skipif(not groups_can_be_made(), reason="no control groups that this user may make")
def test_groups_of_this_sessions_installs_are_removed_at_its_end(settings: Settings, tmp_path: Path) -> None:
    install = Install(settings.var_dir, wait_s=0)
    subtree = Subtree(install.install_id, hierarchies())
    install.remember_groups(subtree.folders)
    install.close()
    subtree.make_group("w1", Limits(64 * MIB, 10), Limits(64 * MIB, 10))
    remove_groups_of(tmp_path)
    assert not [folder for folder in subtree.folders if folder.exists()]
