"""What callers may do: a rule for every action, its default here, overrides in `POLICY_FILE`.

Rules say who may ask for an action at all. Whose rows it reaches is not theirs to say: everybody's own project's, and
those of other projects by the rules of `models/scope.py` for whom `context_is_admin` holds. So the target that a rule
is held against, `%(project_id)s` and `%(user_id)s`, is the caller's own.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg
from oslo_policy import policy

from qinling_falcon.errors import Forbidden
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import SettingsError

_ADMIN = "rule:context_is_admin"
_OWNER = "rule:admin_or_owner"

RULES: Mapping[str, str] = {
    "context_is_admin": "role:admin",
    "admin_or_owner": "rule:context_is_admin or project_id:%(project_id)s",
    "runtime:create": _ADMIN,
    "runtime:get": _OWNER,
    "runtime:get_all": _OWNER,
    "runtime:update": _ADMIN,
    "runtime:delete": _ADMIN,
    "runtime_pool:get_all": _ADMIN,
    "function:create": _OWNER,
    "function:get": _OWNER,
    "function:get_all": _OWNER,
    "function:get_all:all_projects": _ADMIN,
    "function:update": _OWNER,
    "function:delete": _OWNER,
    "function:detach": _ADMIN,
    "function:scale_up": _ADMIN,
    "function:scale_down": _ADMIN,
    "function_worker:get_all": _ADMIN,
    "function_version:create": _OWNER,
    "function_version:get": _OWNER,
    "function_version:get_all": _OWNER,
    "function_version:delete": _OWNER,
    "function_version:detach": _ADMIN,
    "function_version:scale_up": _ADMIN,
    "function_version:scale_down": _ADMIN,
    "function_alias:create": _OWNER,
    "function_alias:get": _OWNER,
    "function_alias:get_all": _OWNER,
    "function_alias:get_all:all_projects": _ADMIN,
    "function_alias:update": _OWNER,
    "function_alias:delete": _OWNER,
    "execution:create": _OWNER,
    "execution:get": _OWNER,
    "execution:get_all": _OWNER,
    "execution:get_all:all_projects": _ADMIN,
    "execution:delete": _OWNER,
    "webhook:create": _OWNER,
    "webhook:get": _OWNER,
    "webhook:get_all": _OWNER,
    "webhook:get_all:all_projects": _ADMIN,
    "webhook:update": _OWNER,
    "webhook:delete": _OWNER,
    "job:create": _OWNER,
    "job:get": _OWNER,
    "job:get_all": _OWNER,
    "job:get_all:all_projects": _ADMIN,
    "job:update": _OWNER,
    "job:delete": _OWNER,
}
"""Every rule and its default, in the syntax of oslo.policy."""

# What a check may look at.
_KINDS = frozenset({"project_id", "role", "rule", "user_id"})
_MOST_DECISIONS = 10_000


class Policy:
    """Decides by the rules, and remembers what it has decided: rules and callers' properties don't change.

    Args:
        path: a YAML file of overrides, in the syntax of oslo.policy; None: the defaults alone.

    Raises:
        SettingsError: the file can't be read, or a rule in it names nothing known, or can't be understood.
    """

    def __init__(self, path: Path | None):
        logging.getLogger("oslo_policy").setLevel(logging.ERROR)  # what it warns of, `_check_file` refuses
        conf = cfg.ConfigOpts()
        conf([], project="qinling-falcon", default_config_files=[], default_config_dirs=[])
        overrides = {} if path is None else _read_file(path)
        rules = policy.Rules.from_dict(dict(RULES) | overrides)
        self._enforcer = policy.Enforcer(conf, rules=rules, use_conf=False)
        if path is not None:
            _check_file(path, overrides, rules, self._enforcer)
        self._decided: OrderedDict[tuple[Context, str], bool] = OrderedDict()

    def enforce(self, context: Context, rule: str) -> None:
        """Let the caller pass, or not.

        Raises:
            Forbidden: the rule doesn't hold for the caller.
        """
        allowed = self._decided.get((context, rule))
        if allowed is None:
            allowed = self._decided[context, rule] = self._decide(context, rule)
            if len(self._decided) > _MOST_DECISIONS:
                self._decided.popitem(last=False)
        if not allowed:
            raise Forbidden(f"Operation not allowed: {rule}.")

    def is_admin(self, context: Context) -> bool:
        """Whether the caller sees the rows of all projects."""
        return self._decide(context, "context_is_admin")

    def _decide(self, context: Context, rule: str) -> bool:
        target = {"project_id": context.project_id, "user_id": context.user_id}
        return bool(self._enforcer.enforce(rule, target, target | {"roles": list(context.roles)}))


def _read_file(path: Path) -> dict[str, str]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"POLICY_FILE={path}: can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"POLICY_FILE={path}: expected YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsError(f"POLICY_FILE={path}: expected rules by name")
    for name, text in found.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise SettingsError(f"POLICY_FILE={path}: {name}: expected a rule as text, such as \"role:member\"")
    return found


def _check_file(path: Path, overrides: Mapping[str, str], rules: policy.Rules, enforcer: policy.Enforcer) -> None:
    """Refuse what oslo.policy would take for 'nobody', or for nothing.

    A name of the file's own is a part of other rules; when none uses it, it is a name that was misspelled.
    """
    used = {check.match for check in _parts(rules) if isinstance(check, policy.RuleCheck)}
    for name, text in overrides.items():
        if name not in RULES and name not in used:
            raise SettingsError(f"POLICY_FILE={path}: {name}: there is no such rule")
        if str(rules[name]) == "!" and text.strip() != "!":
            raise SettingsError(f"POLICY_FILE={path}: {name}: {text!r} is no rule")
    for name in used - rules.keys():
        raise SettingsError(f"POLICY_FILE={path}: a rule names rule:{name}, which there is not")
    if not enforcer.check_rules():
        raise SettingsError(f"POLICY_FILE={path}: rules name one another in a circle")
    for check in _parts(rules):
        kind = getattr(check, "kind", "rule")
        if kind not in _KINDS and not _is_literal(kind):
            known = ", ".join(sorted(_KINDS))
            raise SettingsError(f"POLICY_FILE={path}: {check}: expected one of {known} before the colon")


def _is_literal(kind: object) -> bool:
    """Whether the left side of a check is a value that is compared with a part of the target, as `'x':%(user_id)s`."""
    return isinstance(kind, str) and (kind[:1] in "'\"" or kind in ("True", "False") or kind.isdigit())


def _parts(rules: Mapping[str, Any]) -> Iterator[Any]:
    """All checks in all rules."""
    waiting = list(rules.values())
    while waiting:
        check = waiting.pop()
        yield check
        waiting += getattr(check, "rules", ())
        if isinstance(check, policy.NotCheck):
            waiting.append(check.rule)
