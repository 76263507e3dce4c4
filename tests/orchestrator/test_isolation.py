"""The report of what isolates workers, and control groups of both versions."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process import isolation, kernel, sandbox
from qinling_falcon.orchestrators.process.cgroups import Group, Hierarchy, Subtree, hierarchies
from qinling_falcon.orchestrators.process.child_group import Limits
from qinling_falcon.settings import Settings, SettingsError

from .conftest import REPOSITORY

FEATURES = [
    "root", "bubblewrap", "pid namespace", "net namespace", "ipc namespace", "uts namespace", "mount namespace",
    "cgroup namespace", "second uid", "process count", "setpriv", "memory cgroup", "pids cgroup", "cpu cgroup",
    "freezer cgroup", "seccomp", "landlock", "landlock scopes",
]  # fmt: skip


def doctor(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qinling_falcon.orchestrators.process.doctor"],
        capture_output=True, text=True, cwd=REPOSITORY, env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip


def test_doctor_names_every_feature() -> None:
    found = doctor()
    assert found.returncode == 0
    lines = found.stdout.splitlines()
    assert [line[:18].strip() for line in lines[:-1]] == [*FEATURES, "zygote"]
    assert lines[-1].startswith("workers run in: ")


def test_doctor_says_what_the_plain_form_lacks() -> None:
    found = doctor(SANDBOX="rlimits")
    assert found.returncode == 0
    assert "pid namespace     MISSING  functions see other processes" in found.stdout


def test_doctor_tells_of_a_wrong_setting() -> None:
    found = doctor(SANDBOX="chroot")
    assert found.returncode == 1
    assert found.stderr.startswith("SANDBOX=chroot: expected one of")


def test_report_is_a_list_of_triples() -> None:
    report = isolation.isolation_report(Settings())
    assert [name for name, _, _ in report] == FEATURES
    assert all(note for _, available, note in report if not available)


def test_a_kernel_that_can_not_be_tried_has_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "_RUNTIME", tmp_path)
    found = {name: note for name, available, note in isolation.isolation_report(Settings()) if not available}
    for name in ("seccomp", "landlock", "landlock scopes"):
        assert found[name].startswith("ModuleNotFoundError: No module named 'qinling_worker': "), name


def test_a_count_of_processes_for_each_worker_needs_a_second_uid_or_user_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = dict.fromkeys(kernel.KERNEL_FEATURES, "")
    monkeypatch.setattr(isolation, "find_tools", lambda: sandbox.Tools(None, None))  # without setpriv, no second uid
    for failure in ("", "denied"):
        monkeypatch.setattr(isolation, "try_kernel", lambda failure=failure: failures | {"process count": failure})
        found = {feature.feature: feature for feature in isolation.examine(Settings()).features}
        assert found["process count"].available == (not failure)
        assert found["process count"].note.startswith("denied: RLIMIT_NPROC counts" if failure else "by a user namesp")


@pytest.mark.parametrize("most", [0, 10])
def test_a_host_that_denies_user_namespaces_is_noticed(most: int) -> None:
    # In a user namespace in which an ordinary user may make this many others.
    script = 'echo "$0" > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'
    checked = "import sys; sys.path.insert(0, sys.argv[1]); from qinling_worker.host_check import main; main()"
    nested = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--keep-caps", "sh", "-c", script, str(most)]
    asked = [sys.executable, "-I", "-S", "-c", checked, str(REPOSITORY / "runtimes" / "python3")]
    found = subprocess.run([*nested, *asked], capture_output=True, text=True, check=False)
    if found.stderr.startswith(("unshare: ", "sh: ")):
        pytest.skip(found.stderr)
    assert json.loads(found.stdout)["process count"] == ("" if most else "this user can make no user namespaces")


def test_bubblewrap_can_be_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(sandbox="bubblewrap")
    missing = sandbox.Tools(None, sandbox.find_tools().setpriv)
    monkeypatch.setattr(isolation, "find_tools", lambda: missing)
    with pytest.raises(SettingsError, match=r"SANDBOX=bubblewrap: .* no bwrap"):
        isolation.demand(settings, isolation.examine(settings))
    relaxed = dataclasses.replace(settings, sandbox="auto")
    found = isolation.examine(relaxed)
    isolation.demand(relaxed, found)
    assert found.form == "rlimits"


def test_tenants_are_not_left_without_a_sandbox_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "find_tools", lambda: sandbox.Tools(None, None))
    tenants = Settings(
        auth_mode="keystone", os_auth_url="http://127.0.0.1:1/v3", os_username="qinling", os_password="secret",
        os_project_name="service",
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"AUTH_MODE=keystone: .* no bwrap"):
        isolation.demand(tenants, isolation.examine(tenants))
    careless = dataclasses.replace(tenants, sandbox="rlimits")
    isolation.demand(careless, isolation.examine(careless))


def simulate(tmp_path: Path, own: str, *delegating: str) -> Path:
    """A host with control groups of version 2 alone, as its files show it to a process in the group `own`."""
    mount = tmp_path / "cgroup"
    (mount / own.strip("/")).mkdir(parents=True)
    for folder in (mount, *(mount / name for name in delegating)):
        (folder / "cgroup.subtree_control").write_text("cpu io memory pids")
    process = tmp_path / "proc"
    process.mkdir()
    (process / "mountinfo").write_text(f"26 19 0:23 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    (process / "cgroup").write_text(f"0::{own}\n")
    return process


def test_version_2_uses_the_nearest_group_that_delegates(tmp_path: Path) -> None:
    process = simulate(tmp_path, "/system.slice/qinling.service", "system.slice")
    assert hierarchies(process) == [
        Hierarchy(tmp_path / "cgroup" / "system.slice", 2, frozenset({"memory", "pids", "cpu"}))
    ]


def test_version_2_falls_back_on_the_root(tmp_path: Path) -> None:
    process = simulate(tmp_path, "/user.slice/session")
    assert [found.parent for found in hierarchies(process)] == [tmp_path / "cgroup"]


def test_a_hierarchy_that_can_not_be_used_is_a_problem_and_no_error(tmp_path: Path) -> None:
    subtree = Subtree("x", [Hierarchy(tmp_path / "none", 2, frozenset({"memory", "pids"}))])
    assert subtree.controllers == set()
    assert "No such file" in subtree.problems["memory"]
    assert not subtree.make_group("w1", Limits(1, 1))


def test_version_2_kills_a_whole_group_at_once() -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no control groups of version 2 that this user may make")
    folder = mount / f"test-{os.getpid()}"
    folder.mkdir()
    group = Group([folder])
    entrances = group.open_entrances()
    process = subprocess.Popen(
        ["sleep", "600"], preexec_fn=lambda: [os.write(entrance, b"0") for entrance in entrances] and None
    )
    try:
        assert group.processes() == {process.pid}
        group.kill()
        assert process.wait(10) == -9
    finally:
        process.kill()
        process.wait()
        for entrance in entrances:
            os.close(entrance)
        assert group.remove()
