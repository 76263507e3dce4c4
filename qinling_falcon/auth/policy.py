"""What callers may do. Everything that is not named here is for the owner of a row, and for admins."""

from __future__ import annotations

from qinling_falcon.errors import Forbidden
from qinling_falcon.models.scope import Context

ADMIN_RULES = frozenset(
    {
        "runtime:create",
        "runtime:update",
        "runtime:delete",
        "runtime_pool:get_all",
        "function:get_all:all_projects",
        "function:detach",
        "function:scale_up",
        "function:scale_down",
        "function_worker:get_all",
        "function_version:detach",
        "function_version:scale_up",
        "function_version:scale_down",
        "function_alias:get_all:all_projects",
        "execution:get_all:all_projects",
        "webhook:get_all:all_projects",
        "job:get_all:all_projects",
    }
)


def enforce(context: Context, rule: str) -> None:
    """Let the caller pass, or not.

    Raises:
        Forbidden: the rule is for admins, and the caller is none.
    """
    if rule in ADMIN_RULES and not context.is_admin:
        raise Forbidden("Operation not allowed.")
