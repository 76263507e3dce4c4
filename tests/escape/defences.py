"""The defences by name, each with the changes that remove it from a copy of the program (`ESCAPE_WITHOUT=1`).

The program itself has no switch that turns a defence off.
"""

from __future__ import annotations

from tests.escape.attempt import Defence, Replacement

_BOXED = frozenset({"root fork", "root exec", "user fork", "user exec"})
_ROOT = frozenset({"root fork", "root exec", "root rlimits"})
_USER = frozenset({"user fork", "user exec", "user rlimits"})
_WORKER = "runtimes/python3/qinling_worker"
_SERVICE = "qinling_falcon/orchestrators/process"


def _of_worker(module: str, old: str, new: str) -> tuple[Replacement, ...]:
    return (Replacement(f"{_WORKER}/{module}.py", old, new),)


DEFENCES: dict[str, Defence] = {
    "seccomp": Defence(
        (*_of_worker("template", "        seccomp.load()\n", "        pass\n"),
         *_of_worker("template", "            if self._filtered:\n", "            if False:\n")),
        "seccomp",
    ),
    "landlock": Defence(_of_worker("confine", "        landlock.enter(rules)\n", ""), "landlock"),
    "landlock scopes": Defence(
        _of_worker("landlock", "_SCOPES if VERSION >= SCOPES_VERSION else 0", "0"), "landlock scopes"
    ),
    "landlock of a call": Defence(_of_worker("per_call", "        enter(scope)\n", ""), "landlock scopes"),
    "loaded process not dumpable": Defence(_of_worker("per_call", "    _set_dumpable(False)\n", "")),
    "hidden key names": Defence(
        (
            *_of_worker("sandbox", "            _hide_keys()\n", "            pass\n"),
            Replacement(f"{_SERVICE}/sandbox.py", 'options += ["--ro-bind", "/dev/null", keys]', "pass"),
        ),
        None,
        frozenset({"user fork", "user exec"}),
    ),
    "session keyring": Defence(_of_worker("start", "    keyrings.join_new_session()", "    pass")),
    "second uid": Defence(
        (Replacement(f"{_SERVICE}/orchestrator.py", '"child_uid": worker.slot.child_uid if worker.slot else None',
                     '"child_uid": None'),),
        "second uid", _ROOT,
    ),
    # Here the call must be reversed, because a change of uid also makes a process not dumpable.
    "not dumpable": Defence(_of_worker("start", "linux.set_dumpable(False)", "linux.set_dumpable(True)")),
    "own user namespace": Defence(
        _of_worker("start", "    counted_alone = count_alone()\n", "    counted_alone = False\n"), None,
        frozenset({"user exec", "user rlimits"}),
    ),
    "no capabilities": Defence(_of_worker("confine", "    linux.keep_capabilities(())\n", ""), None, _ROOT),
    "no second uid to become": Defence((), None, _USER, test="orchestrator/test_user_form.py bubblewrap_without_root"),
    "own uids": Defence(
        (Replacement(f"{_SERVICE}/slots.py", "self._base + 2 * number + 1)", "self._base - 1)"),), "second uid", _ROOT
    ),
    "user namespace of the sandbox": Defence(
        (), None, frozenset({"user fork", "user exec"}), test="orchestrator/test_user_form.py functions_without_root"
    ),
    "watched memory": Defence(
        (*_of_worker("child_memory", "memory.used_below(self._root, self._bare or 0, self._limit) > self._limit",
                     "False"),
         *_of_worker("child_memory", "            return peak > self._limit\n", "            return False\n")),
        None, _USER,
    ),
    "fields of /proc by line": Defence(
        _of_worker("memory", 'status.partition(b"\\n" + name + b":")', 'status.partition(name + b":")'), None, _USER
    ),
    "frozen between calls": Defence(
        _of_worker("freezer", "        if child != self._checked:\n", "        return\n        if child:\n")
    ),
    "answers are checked": Defence(_of_worker("supervisor", " or not is_json(text)", "")),
    "answers are bounded": Defence(
        _of_worker("supervisor", "len(payload) > self._config.child.max_result_size or ", "")
    ),
    "one baseline": Defence(_of_worker("child_memory", "return self._bare is not None", "return False")),
    "ended with its tree": Defence(
        (Replacement(f"{_SERVICE}/leftovers.py", "    waiting = list(found)\n", "    waiting = []\n"),
         Replacement(f"{_SERVICE}/leftovers.py", "fresh := _stop_children(parents, found)", "fresh := set()")),
        None, frozenset({"user rlimits"}),
    ),
    # The manager ends all that is in the group, by the group and by its user ids.
    "worker's control group": Defence(
        (), None, frozenset({"root rlimits"}), test="orchestrator/test_lifecycle.py destroy_leaves_nothing"
    ),
    "child's control group": Defence(
        _of_worker("template", '                os.write(entrance, b"0")\n', "                pass\n"),
        "memory cgroup", _ROOT,
    ),
    "no files in memory": Defence(
        _of_worker("seccomp", '        rules["memfd_create"] = refuse(errno.ENOSYS)', "        pass"), "seccomp", _USER
    ),
    "all threads are looked at": Defence(
        _of_worker("memory", "                if fields[_STATE] in _ENDED and int(fields[_THREADS]) > 1:\n",
                   "                if False:\n"), None, _USER
    ),
    "read-only code": Defence(
        (*_of_worker("sandbox", "_show_read_only(code, _CODE, _PLAIN | os.statvfs(code).f_flag & linux.MS_NOEXEC)",
                     'linux.mount(code, _CODE, "", linux.MS_BIND)'),
         Replacement(f"{_SERVICE}/sandbox.py", '["--ro-bind", str(box.code_dir)', '["--bind", str(box.code_dir)')),
        "mount namespace", _BOXED,
    ),
    "read-only devices": Defence(
        _of_worker("start", "    protect_devices()\n", ""), "mount namespace", frozenset({"root fork", "user fork"})
    ),
    "mount namespace": Defence(
        (), "mount namespace", _BOXED, test="orchestrator/test_sandbox.py files_of_the_host_do_not_appear"
    ),
    "net namespace": Defence(
        (Replacement(f"{_SERVICE}/sandbox.py", '[] if settings.network == "host" else ["net"]', "[]"),
         Replacement(f"{_SERVICE}/launcher.py", 'self._settings.network != "host"', "False")),
        "net namespace", _BOXED,
    ),
    "ipc namespace": Defence(
        (Replacement(f"{_SERVICE}/sandbox.py", '["pid", "ipc", "uts"]', '["pid", "uts"]'),
         *_of_worker("sandbox", " | clone.CLONE_NEWIPC", "")),
        "ipc namespace", _BOXED,
    ),
    "uts namespace": Defence(
        (Replacement(f"{_SERVICE}/sandbox.py", '["pid", "ipc", "uts"]', '["pid", "ipc"]'),
         Replacement(f"{_SERVICE}/sandbox.py", '"--hostname", etc.HOST_NAME', ""),
         *_of_worker("sandbox", " | clone.CLONE_NEWUTS", "")),
        "uts namespace", _BOXED,
    ),
    "pid namespace": Defence(
        (), "pid namespace", _BOXED, test="orchestrator/test_sandbox.py only_processes_of_the_worker_are_seen"
    ),
}  # fmt: skip
