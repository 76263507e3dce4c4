"""The policy: a rule for each action, with its default here and overrides in `POLICY_FILE`.

A rule decides whether a caller may ask for an action at all. It does not decide which rows the action reaches: those of
the caller's project, and for callers that pass `context_is_admin` also rows and quotas of other projects, by the rules
of `models/scope.py`. The target of a rule (`%(project_id)s`, `%(user_id)s`) is therefore always the caller itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oslo_config import cfg
from oslo_policy import policy

from qinling_falcon.auth import policy_file
from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import Forbidden
from qinling_falcon.models.scope import Context

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
    "execution:update": _OWNER,
    "execution:retry": _OWNER,
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
    "job:run": _OWNER,
    "job:delete": _OWNER,
    "quota:get": _OWNER,
    "quota:update": _ADMIN,
    "pool:get": _ADMIN,
    "pool_worker:get_all": _ADMIN,
    "pool_queue:get_all": _ADMIN,
    "pool_event:get_all": _ADMIN,
    "pool_execution:get": _ADMIN,
}
"""Every rule and its default, in the syntax of oslo.policy."""

_MOST_DECISIONS = 10_000


class Policy:
    """Decides by the rules, and remembers what it has decided: rules and callers' properties don't change.

    Args:
        path: a YAML file of overrides, in the syntax of oslo.policy; None: the defaults alone.

    Raises:
        SettingsError: the file can't be read, or a rule in it names nothing known, or can't be understood.
    """

    def __init__(self, path: Path | None):
        conf = cfg.ConfigOpts()
        conf([], project="qinling-falcon", default_config_files=[], default_config_dirs=[])
        rules = policy.Rules.from_dict(dict(RULES)) if path is None else policy_file.read(path, RULES)
        self._enforcer = policy.Enforcer(conf, rules=rules, use_conf=False)
        self._decided: BoundedCache[tuple[Context, str], bool] = BoundedCache(_MOST_DECISIONS)

    def enforce(self, context: Context, rule: str) -> None:
        """Let the caller pass, or not.

        Raises:
            Forbidden: the rule doesn't hold for the caller.
        """
        if not self.allows(context, rule):
            raise Forbidden(f"Operation not allowed: {rule}.")

    def allows(self, context: Context, rule: str) -> bool:
        """Whether the rule holds for the caller."""
        allowed = self._decided.get((context, rule))
        if allowed is None:
            allowed = self._decide(context, rule)
            self._decided.put((context, rule), allowed)
        return allowed

    def is_admin(self, context: Context) -> bool:
        """Whether the caller sees the rows of all projects."""
        return self._decide(context, "context_is_admin")

    def _decide(self, context: Context, rule: str) -> bool:
        target = {"project_id": context.project_id, "user_id": context.user_id}
        return bool(self._enforcer.enforce(rule, target, target | {"roles": list(context.roles)}))
