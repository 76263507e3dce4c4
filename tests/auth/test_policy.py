"""The policy: who passes by default, what a file of overrides changes, and which files stop the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qinling_falcon.auth.policy import RULES, Policy
from qinling_falcon.errors import Forbidden
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import SettingsError

ROOT = Path(__file__).parents[2]
ADMIN = Context("theirs", user_id="ann", roles=("admin", "member", "reader"))
MEMBER = Context("mine", user_id="mia", roles=("member", "reader"))
READER = Context("mine", user_id="ray", roles=("reader",))
AUDITOR = Context("mine", user_id="aud", roles=("auditor",))
NO_ROLES = Context("mine", user_id="nil")

# By the API's reference: everything else is every project's own.
FOR_ADMINS = {
    "context_is_admin",
    "runtime:create", "runtime:update", "runtime:delete", "runtime_pool:get_all",
    "pool:get", "pool_worker:get_all", "pool_queue:get_all", "pool_event:get_all", "pool_execution:get",
    "function:detach", "function:scale_up", "function:scale_down", "function_worker:get_all",
    "function_version:detach", "function_version:scale_up", "function_version:scale_down",
    "function:get_all:all_projects", "function_alias:get_all:all_projects", "execution:get_all:all_projects",
    "webhook:get_all:all_projects", "job:get_all:all_projects",
    "quota:update",
}  # fmt: skip


def policy(folder: Path, text: str) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(text)
    return Policy(path)


def passes(policy: Policy, context: Context, rule: str) -> bool:
    """By `enforce`, which must agree with `allows` and with itself when it is asked again."""
    answers = set()
    for _ in range(2):
        try:
            policy.enforce(context, rule)
        except Forbidden as error:
            assert str(error) == f"Operation not allowed: {rule}."
            answers.add(False)
        else:
            answers.add(True)
        answers.add(policy.allows(context, rule))
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.parametrize("rule", RULES)
def test_by_default_some_actions_are_admins_and_others_everybodys_in_a_project(rule: str) -> None:
    by_default = Policy(None)
    assert passes(by_default, ADMIN, rule)
    for context in (MEMBER, READER, AUDITOR, NO_ROLES):
        assert passes(by_default, context, rule) is (rule not in FOR_ADMINS)


def test_only_known_rules_are_for_admins() -> None:
    assert RULES.keys() >= FOR_ADMINS


def chain(length: int) -> str:
    """Rules that name one another, from `job:get` down to one of a role."""
    rules = [f"r{number}: rule:r{number - 1}\n" for number in range(1, length)]
    return f"r0: role:auditor\njob:get: rule:r{length - 1}\n" + "".join(rules)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    changed, by_default = policy(tmp_path, text), Policy(None)
    for rule in RULES:
        for context in (ADMIN, MEMBER):
            assert passes(changed, context, rule) == passes(by_default, context, rule)


@pytest.mark.parametrize(
    ("text", "rule", "passing"),
    [
        ("function:create: role:member", "function:create", {ADMIN, MEMBER}),
        ("function:create: role:Member", "function:create", {ADMIN, MEMBER}),  # Keystone's names have no case
        ("function:create: not role:reader", "function:create", {AUDITOR, NO_ROLES}),
        ('function:create: "!"', "function:create", set()),
        ('function:create: "@"', "function:create", {ADMIN, MEMBER, READER, AUDITOR, NO_ROLES}),
        ("function:create: user_id:mia", "function:create", {MEMBER}),
        ("function:create: project_id:theirs", "function:create", {ADMIN}),
        ("function:create: \"'mia':%(user_id)s\"", "function:create", {MEMBER}),
        ("function:create: role:member and (not role:admin)", "function:create", {MEMBER}),
        ('function:create: "role:member and (! or not role:admin)"', "function:create", {MEMBER}),
        ("runtime:create: role:member", "runtime:create", {ADMIN, MEMBER}),
        ("function:get_all:all_projects: role:auditor", "function:get_all:all_projects", {AUDITOR}),
        ("context_is_admin: role:auditor", "runtime:create", {AUDITOR}),
        ("context_is_admin: role:auditor", "function:create", {ADMIN, MEMBER, READER, AUDITOR, NO_ROLES}),
        ("admin_or_owner: rule:context_is_admin or role:member", "job:delete", {ADMIN, MEMBER}),
        ("writers: role:member\nfunction:create: rule:writers", "function:create", {ADMIN, MEMBER}),
        ("a: rule:b\nb: role:auditor\njob:get: rule:a", "job:get", {AUDITOR}),
        pytest.param(chain(45), "job:get", {AUDITOR}, id="a chain of 45"),
        (f"job:get: {'not ' * 40}role:auditor", "job:get", {AUDITOR}),
    ],
)
def test_a_file_tightens_and_widens(tmp_path: Path, text: str, rule: str, passing: set[Context]) -> None:
    changed, by_default = policy(tmp_path, text), Policy(None)
    everybody = (ADMIN, MEMBER, READER, AUDITOR, NO_ROLES)
    assert {context for context in everybody if passes(changed, context, rule)} == passing
    # What it doesn't name, stays.
    untouched = set(RULES) - {rule} if "context_is_admin:" not in text and "admin_or_owner:" not in text else set()
    for other in untouched:
        for context in everybody:
            assert passes(changed, context, other) == passes(by_default, context, other)


def test_readers_may_only_look(tmp_path: Path) -> None:
    acts = [name for name in RULES if name.endswith((":create", ":update", ":delete")) and name not in FOR_ADMINS]
    changed = policy(tmp_path, "".join(f"{name}: role:member\n" for name in acts))
    for rule in RULES.keys() - FOR_ADMINS:
        assert passes(changed, READER, rule) is (rule not in acts)
        assert passes(changed, MEMBER, rule)


def test_who_is_admin_sees_all_projects(tmp_path: Path) -> None:
    changed = policy(tmp_path, "context_is_admin: role:auditor")
    assert [changed.is_admin(context) for context in (ADMIN, AUDITOR)] == [False, True]
    assert [Policy(None).is_admin(context) for context in (ADMIN, AUDITOR)] == [True, False]


def test_decisions_are_of_one_caller_in_one_project() -> None:
    # The same user and roles, but a token of another project: what was decided of one says nothing of the other.
    one = Context("theirs", user_id="ann", roles=("admin",))
    for context, allowed in ((one, True), (Context("theirs", user_id="ann"), False), (one, True)):
        assert passes(Policy(None), context, "runtime:create") is allowed


def test_a_decision_that_was_forgotten_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qinling_falcon.auth.policy._MOST_DECISIONS", 2)
    small = Policy(None)
    for _ in range(2):
        for context in (ADMIN, MEMBER, READER):
            assert passes(small, context, "runtime:create") is (context is ADMIN)
    assert len(small._decided) == 2


SYNTAX = "expected a rule in oslo.policy's syntax"
KIND = "expected one of project_id, role, rule, user_id before the colon"
DEEP = "expected at most 50 checks and rules in one another"
TARGET = "expected no other %(…)s than %(project_id)s and %(user_id)s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("function:craete: role:member", "function:craete: expected the name of a rule"),
        pytest.param(f"job:get: {'not ' * 3000}role:member", f"job:get: {DEEP}", id="3000 times not"),
        pytest.param(f"job:get: {'not ' * 500}role:member", f"job:get: {DEEP}", id="500 times not"),
        pytest.param(f"job:get: {'-' * 5000}1:member", KIND, id="5000 times minus"),
        pytest.param(chain(3000), f"r50: {DEEP}", id="a chain of 3000"),
        ("default: role:member", "default: expected the name of a rule"),
        ("helper: role:member", "helper: expected the name of a rule"),
        ("function:create: roel:admin", f"function:create: roel:admin: {KIND}"),
        ("function:create: ROLE:admin", f"function:create: ROLE:admin: {KIND}"),
        ("function:create: not roel:admin", f"function:create: roel:admin: {KIND}"),
        ("function:create: role:x or (roel:admin)", f"function:create: roel:admin: {KIND}"),
        ("function:create: http://somewhere/%(user_id)s", f"http://somewhere/%(user_id)s: {KIND}"),
        ("function:create: https://somewhere/", f"https://somewhere/: {KIND}"),
        ("function:create: system_scope:all", f"system_scope:all: {KIND}"),
        ("function:create: \"'mia:%(user_id)s\"", KIND),
        ("function:create: user_id:%(user)s", f"user_id:%(user)s: {TARGET}"),
        ("function:create: user_id:%(user_id", f"user_id:%(user_id: {TARGET}"),
        ("function:create: user_id:%(user_id)d", TARGET),
        ("function:create: \"role:\"", "role:: expected something after the colon"),
        ("function:create: role:admin adn role:x", f"function:create: {SYNTAX}, not 'role:admin adn role:x'"),
        ("function:create: role:member or admin", f"{SYNTAX}, not 'role:member or admin'"),
        ("function:create: role:member and not admin", SYNTAX),
        ('function:create: "! and"', SYNTAX),
        ('function:create: "role: member"', SYNTAX),
        ("function:create: (role:admin", SYNTAX),
        ("function:create: member", SYNTAX),
        ("function:create: rule:writers", "function:create: rule:writers: expected the name of a rule"),
        ("function:create: not rule:writers", "rule:writers: expected the name of a rule"),
        ("a: rule:b\nb: rule:a\nfunction:create: rule:a", "a: expected a rule that does not, in the end, name itself"),
        ("context_is_admin: rule:admin_or_owner", "context_is_admin: expected a rule that does not"),
        ("function:create: not rule:function:create", "function:create: expected a rule that does not"),
        ("function:create: 5", "function:create: expected a rule as text"),
        ("function:create:", "function:create: expected a rule as text"),
        ("function:create: [role:member]", "function:create: expected a rule as text"),
        ("function:create: {role: member}", "function:create: expected a rule as text"),
        ("5: role:member", "5: expected a rule as text"),
        ("job:get: role:a\njob:get: role:b", "expected YAML: job:get is there twice (line 2)"),
        ("- function:create", "expected rules by name"),
        ("role:member", "expected rules by name"),
        ("{", "expected YAML: "),
        ("job:get: role:a\n\tjob:update: role:b", "expected YAML: "),
        ("a: &a [*a]", "a: expected a rule as text"),
        ("? [a]\n: role:b", "expected YAML: "),
        ("x: !!python/object/apply:os.getpid []", "expected YAML: "),
        ("\0", "expected YAML: "),
    ],
)
def test_a_file_that_is_not_all_understood_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        policy(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(f"POLICY_FILE={tmp_path}/policy.yaml: ")
    assert said in message
    assert "\n" not in message
    assert capfd.readouterr().err == ""


def test_a_file_that_cant_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"job:get: role:caf\xe9")
    for path, said in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin", "expected YAML: 'utf-8' codec"),
    ):
        with pytest.raises(SettingsError, match=f"POLICY_FILE={path}: .*{said}"):
            Policy(path)


@pytest.mark.parametrize(
    "command", ["gunicorn -c config/gunicorn.conf.py --no-control-socket app:application", "workers.run"]
)
def test_web_and_make_run_say_it_in_one_line_and_end(tmp_path: Path, command: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("function:craete: role:member")
    environ = os.environ | {"POLICY_FILE": str(path), "VAR_DIR": str(tmp_path), "PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(f"POLICY_FILE={path}: function:craete: expected the name of a rule")
