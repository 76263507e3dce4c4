"""No query without a scope: what the code says. What strangers get is in test_strangers.py and tests/api."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from qinling_falcon.models import tables

ROOT = Path(__file__).parents[2]
TABLES = {table.__name__ for table in tables.ALL} | {
    "Row", "DoomedTrust", "ProjectQuota", "QueuedExecution", "IdempotencyKey", "Callback", "DeletedFunction",
}  # fmt: skip
READS = {"select", "get", "get_or_none", "get_by_id", "filter", "raw", "noop", "alias", "get_or_create"}
WRITES = {
    "update", "delete", "insert", "create", "replace", "insert_many", "insert_from", "replace_many",
    "bulk_create", "bulk_update", "set_by_id", "delete_by_id",
}  # fmt: skip
# Of whatever they are called: rows, queries made by hand, databases and their connections.
ALWAYS = {"delete_instance", "execute_sql", "executemany", "executescript"}
# The same, but elsewhere packages are saved and functions executed.
IN_MODELS = {"save", "execute"}

WRITTEN = {
    # New rows of the caller's project.
    "models.runtime.create": ["runtime.save"],
    "models.function.create": ["function.save"],
    "models.version.create": ["version.save"],
    "models.alias.create": ["alias.save"],
    "models.webhook.create": ["webhook.save"],
    "models.job.create": ["job.save"],
    # A row that was found in a scope, by its id; the versions of a function that was.
    "models.rows.change": ["model.update"],
    "models.function.delete": ["Version.delete", "Function.delete"],
    "models.version.delete": ["Version.delete"],
    "models.alias.delete": ["Alias.delete"],
    "models.webhook.delete": ["Webhook.delete"],
    "models.job.delete": ["Job.delete"],
    "models.execution.delete": ["Execution.delete"],
    # Of the project whose limits they are.
    "models.quotas.change": ["ProjectQuota.insert", "ProjectQuota.update"],
    "models.quotas._locked_row": ["ProjectQuota.insert"],
    # Records of any project that are older than is kept, by their ids; sizes of packages by their keys.
    "models.retention._delete": ["Execution.delete", "Execution.delete"],
    "models.package_keys._write_size": ["Function.update", "Version.update"],
    # Those of these records whose deliveries may be repeated, each in its project.
    "models.pruned_failures.remember": ["database.execute_sql"],
    # The pool manager's, for all projects.
    "models.rollout._write": ["Runtime.update"],
    "models.runtime.register": ["engine().execute_sql", "Runtime.create"],
    "models.runtime.remove": ["Runtime.delete"],
    # What was run, with the project of the one who ran it; and the count of what was reached to be run.
    "models.rows.find_by_id": ["engine().execute_sql"],
    "models.records._upsert": ["database.execute_sql", "database.execute_sql"],
    "models.records.add_to_counts": ["database.execute_sql", "database.execute_sql"],
    # The row of an execution that this process has just begun, by its id.
    "models.execution.withdraw": ["Execution.delete"],
    # Executions that were accepted, by their ids: in the project of the caller, or claimed by this process.
    "models.execution_queue.insert": ["database.execute_sql", "database.execute_sql"],
    "models.execution_queue._claim": ["database.execute_sql", "database.execute_sql"],
    "models.execution_queue.extend": ["QueuedExecution.update"],
    "models.execution_queue.postpone": ["Execution.update"],
    "models.execution_queue._queue_again": ["QueuedExecution.update"],
    "models.execution_queue.cancel": ["QueuedExecution.delete", "Execution.update"],
    "models.execution_ends._end": ["database.execute_sql"] * 4,
    "models.execution_ends._won": ["database.execute_sql"],
    # Numbers of all projects together, for the operator.
    "models.execution_counters.count": ["database.execute_sql"],
    "models.execution_counters.read": ["engine().execute_sql"],
    "models.execution_counters.count_callback": ["engine().execute_sql"],
    "models.execution_counters.read_callbacks": ["engine().execute_sql"],
    "models.execution_counters.count_strays": ["database.execute_sql"] * 2,
    # Rows of the queue that belong to no execution that runs, of any project.
    "models.strays.delete": ["database.execute_sql"] * 2,
    # Executions of functions that their owners have deleted.
    "models.deleted_functions.note": ["DeletedFunction.insert"],
    "models.deleted_functions.has_work": ["database.execute_sql"] * 2,
    "models.deleted_functions.forget": ["database.execute_sql", "DeletedFunction.delete"],
    "models.deleted_functions._cancel_queued": ["database.execute_sql"],
    "models.deleted_functions._cancel": ["Execution.update", "QueuedExecution.delete"],
    # Executions that were found in a scope.
    "models.execution_retries._reopen": ["Execution.update", "QueuedExecution.insert_many"],
    "models.execution.delete_ended": ["Execution.delete"],
    # Jobs of all projects that are due, by their ids, and what belongs to them: aliases by project and name, executions
    # by ids that were made for them. An execution gets the project of its job.
    "models.due_jobs.due_seconds": ["engine().execute_sql"],
    "models.due_jobs._locked": ["database.execute_sql"],
    "models.due_jobs._aliases": ["engine().execute_sql"],
    "models.due_jobs._inputs": ["engine().execute_sql"],
    "models.due_jobs._existing": ["engine().execute_sql"],
    "models.due_jobs._move": ["database.execute_sql"],
    # Keys of the caller's project, and executions by the ids that this process has made for them.
    "models.idempotency._accepted": ["engine().execute_sql"],
    "models.idempotency._accepted_in_sqlite": ["database.execute_sql", "database.execute_sql"],
    "models.idempotency._claim": ["engine().execute_sql"],
    "models.idempotency.forget": ["IdempotencyKey.delete"],
    "models.idempotency.forget_claim": ["IdempotencyKey.delete"],
    "models.idempotency.begin": ["IdempotencyKey.update"],
    "models.idempotency.extend": ["IdempotencyKey.update"],
    "models.idempotency.release": ["IdempotencyKey.delete", "Execution.delete"],
    # Expired keys of all projects.
    "models.idempotency._prune": ["engine().execute_sql"],
    # Ids of trusts that no row names, or that Keystone has deleted.
    "models.trusts.expect": ["DoomedTrust.insert"],
    "models.trusts.named": ["DoomedTrust.delete"],
    "models.trusts.doom": ["DoomedTrust.insert"],
    "models.trusts.deleted": ["DoomedTrust.delete"],
    # Callbacks of executions that this process has ended, or that it has claimed; for all projects.
    "models.callbacks.add": ["database.execute_sql"],
    "models.callbacks.has_due": ["database.execute_sql"],
    "models.callbacks.next_project": ["database.execute_sql"],
    "models.callbacks._claim": ["database.execute_sql", "database.execute_sql"],
    "models.callbacks.finish": ["Callback.delete"],
    "models.callbacks.postpone": ["Callback.update"],
    # Encrypted secrets of all projects, none of which is shown.
    "models.secrets_at_rest.check": ["database.engine().execute_sql"],
    "models.secrets_at_rest._pages": ["engine.execute_sql"],
    "models.secrets_at_rest._replace": ["engine.execute_sql"],
    # No rows: locks, transactions, connections, the lock of migrations, whether the database answers.
    "app._ask_database": ["database.engine().execute_sql"],
    "models.batches.Batch._begin": ["self._engine.execute_sql"],
    "models.batches.Batch._commit": ["self._engine.execute_sql"],
    "models.batches.Batch._abandon": ["self._engine.execute_sql"],
    "models.engines.sqlite.Sqlite.open_writer": ["connection.execute"] * 6,
    "models.engines.postgres.Postgres.open_writer": ["cursor.execute"],
    "models.migrate._advisory_lock": ["database.execute_sql"],
}
"""Every statement that is no query of a scope, by the function that makes it. Look at a new one before it comes here:
what keeps it to the rows that its caller may change?"""

SYSTEM = {
    "models.due_jobs._due": 1,  # the scheduler fires jobs of all projects, each execution in its job's
    "models.callbacks.subject": 1,  # an execution whose callback this process has claimed
    "models.function.ids_in_runtime": 1,  # a runtime's change replaces the targets of all projects in it
    "models.rows._text_by_id": 1,  # SQL text, in which the project is a parameter
    "models.kept.all_kept": 1,  # workers are kept for functions of all projects
    "models.execution.running": 1,  # those that requests wait for, which have found them
    "models.execution.running_since": 1,  # lost executions
    "models.package_keys.fill_sizes": 1,  # the one store of packages
    "models.package_keys.in_use": 1,
    "models.package_keys.unused": 1,
    "models.retention._projects": 1,  # each project keeps so many
    "models.retention.prune": 1,  # records of all projects grow old
    "models.rollout._read": 1,  # the pool manager
    "models.runtime.delete": 1,  # functions of others keep a runtime
    "models.runtime.everything": 1,  # the pool manager
    "models.webhook._of_any_project": 1,  # a delivery has the webhook's URL and no caller
    "models.trusts._is_named": 1,  # a trust is of the rows that name it
}
"""Who sees the rows of all projects, and how often in its code. A new one has to say why, here too."""


_OF_QUEUE = ("extend", "cancel", "attempt_of", "is_claimed", "due_at", "check", "unclaimed")


def test_tables_are_read_through_scopes_alone() -> None:
    found = [
        f"{where}: {ast.unparse(call.func)}"
        for where, call in _calls()
        if isinstance(call.func, ast.Attribute) and call.func.attr in READS and _is_table(call.func.value)
    ]
    of_limits = ("limits_of", "limits_of_all", "_locked_row")
    by_project = {f"models.quotas.{name}: ProjectQuota.select" for name in of_limits}
    # The queue has ids alone; what belongs to them is read in a scope.
    queue = {f"models.execution_queue.{name}: QueuedExecution.select" for name in _OF_QUEUE}
    queue |= {"models.deleted_functions.page: DeletedFunction.select"}
    queue |= {"models.deleted_functions._cancel: QueuedExecution.select"}
    queue |= {"models.execution: QueuedExecution.select"}  # of the execution that a query shows
    by_project.add("models.idempotency.find: IdempotencyKey.select")
    by_project.add("models.pruned_failures.is_remembered: IdempotencyKey.select")
    by_project.add("models.idempotency.forget_claim: Execution.select")
    assert sorted(set(found) - {"models.trusts.doomed: DoomedTrust.select"} - by_project - queue) == sorted(
        f"models.scope.Scope.{table.__name__.lower()}{'es' if table is tables.Alias else 's'}: {table.__name__}.select"
        for table in tables.ALL
    )
    assert {where for where, call in _calls() if _name(call) == "Scope"} == {
        "models.scope.scoped", "models.scope.system", "models.scope.project_of",
    }  # fmt: skip


def test_every_write_is_known() -> None:
    found: dict[str, list[str]] = {}
    for where, call in _calls():
        if isinstance(call.func, ast.Attribute) and _is_write(call.func, call, where):
            found.setdefault(where, []).append(ast.unparse(call.func))
    assert found == WRITTEN


def test_whoever_sees_all_projects_is_known() -> None:
    found: dict[str, int] = {}
    for where, call in _calls():
        if _name(call) == "system":
            found[where] = found.get(where, 0) + 1
            assert isinstance(call.args[0], ast.Constant), where
    assert found == SYSTEM


def test_a_table_has_no_other_name() -> None:
    """The tests above know tables by their names."""
    for path in ROOT.glob("qinling_falcon/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not [name for name in node.names if name.name in TABLES and name.asname], path
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in TABLES:
                pytest.fail(f"{path}:{node.lineno} gives {node.value.id} another name")


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """All calls in the service's code, with the function that they are in. Migrations are no part of it."""
    paths = [*ROOT.glob("qinling_falcon/**/*.py"), *ROOT.glob("workers/**/*.py"), ROOT / "app.py"]
    for path in paths:
        if "migrations" not in path.parts:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("qinling_falcon.")
            yield from _calls_in(ast.parse(path.read_text()), module, in_function=False)


def _calls_in(node: ast.AST, where: str, *, in_function: bool) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = where
        if not in_function and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{where}.{child.name}"
        if isinstance(child, ast.Call):
            yield where, child
        yield from _calls_in(child, inner, in_function=in_function or is_function)


def _is_table(node: ast.expr) -> bool:
    """Whether an expression is a table, as far as its text tells."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in TABLES or name == "model"
        case ast.Call(func=ast.Name(id="type")):
            return True
    return False


def _is_write(func: ast.Attribute, call: ast.Call, where: str) -> bool:
    if func.attr in WRITES:
        return _is_table(func.value)
    if func.attr in IN_MODELS:
        # A query of a model is executed without arguments.
        return where.startswith("models.") and (func.attr == "save" or bool(call.args or call.keywords))
    return func.attr in ALWAYS


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
