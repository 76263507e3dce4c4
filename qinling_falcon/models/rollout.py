"""Rollouts: how a runtime's row goes from one image to the next. The pool manager writes it.

A new image is on trial until one worker made from it has answered. Then it is promoted: workers are made from it, and
those of the image before are replaced. When none of them can get a call any more, the rollout is complete. Until then,
it can be aborted.

| step | status | `image` | `previous_image` | `fallback_image` |
|---|---|---|---|---|
| trial of a new runtime | creating | new | | |
| trial | upgrading | new | old | |
| promoted | upgrading | new | | old |
| complete | available | new | | |
| aborted | available | old | | |
| aborted for a new runtime | error | new | | |
"""

from __future__ import annotations

from typing import Any

from qinling_falcon.models.database import transact
from qinling_falcon.models.scope import system
from qinling_falcon.models.states import RuntimeStatus
from qinling_falcon.models.tables import Runtime

DELAYED = "No worker can be started now: "
_WITH_STARTS = (RuntimeStatus.CREATING, RuntimeStatus.UPGRADING, RuntimeStatus.AVAILABLE)


def promote(runtime_id: str, image: str) -> bool:
    """End a trial: a worker made from the image has answered. A new runtime is `available` then.

    Returns:
        Whether the image was on trial. False: the runtime is gone, deleted, or has no such image on trial.
    """

    def write() -> bool:
        runtime = _read(runtime_id, image)
        if runtime is None:
            return False
        columns: dict[str, Any] = {"status_reason": None, "previous_image": None}
        if runtime.status == RuntimeStatus.CREATING:
            columns["status"] = RuntimeStatus.AVAILABLE.value
        elif runtime.status == RuntimeStatus.UPGRADING and runtime.previous_image is not None:
            columns["fallback_image"] = runtime.previous_image
        else:
            return False
        return _write(runtime, columns)

    return transact(write)


def abort(runtime_id: str, image: str, reason: str) -> bool:
    """End a trial or a rollout, because workers can't be made from the image.

    The runtime is `available` again with the image before. A new runtime, which has none, ends in `error`.

    Args:
        runtime_id: the runtime.
        image: the image that failed.
        reason: why, for the row.

    Returns:
        Whether there was anything to abort. False: the runtime is gone, deleted, or the image is not being rolled out.
    """

    def write() -> bool:
        runtime = _read(runtime_id, image)
        if runtime is None:
            return False
        columns = {"status_reason": reason, "previous_image": None, "fallback_image": None}
        before = runtime.previous_image or runtime.fallback_image
        if runtime.status == RuntimeStatus.CREATING:
            columns["status"] = RuntimeStatus.ERROR.value
        elif runtime.status == RuntimeStatus.UPGRADING and before is not None:
            columns |= {"status": RuntimeStatus.AVAILABLE.value, "image": before}
        else:
            return False
        return _write(runtime, columns)

    return transact(write)


def complete(runtime_id: str, image: str) -> bool:
    """End a rollout: no worker of the image before gets a call any more. The runtime is `available`.

    Returns:
        Whether the image was promoted. False: the runtime is gone, deleted, or the image is not being rolled out.
    """

    def write() -> bool:
        runtime = _read(runtime_id, image)
        if runtime is None or runtime.status != RuntimeStatus.UPGRADING or runtime.previous_image is not None:
            return False
        return _write(runtime, {"status": RuntimeStatus.AVAILABLE.value, "fallback_image": None})

    return transact(write)


def note_delay(runtime_id: str, image: str, reason: str) -> None:
    """Show in the row why no worker can be started from the image now. The runtime keeps its status."""

    def write() -> None:
        runtime = _read(runtime_id, image)
        if runtime is not None and runtime.status in _WITH_STARTS:
            _write(runtime, {"status_reason": f"{DELAYED}{reason}"})

    transact(write)


def end_delay(runtime_id: str, image: str) -> None:
    """Remove what `note_delay` has written, because a worker has started."""

    def write() -> None:
        runtime = _read(runtime_id, image)
        if runtime is not None and is_delayed(runtime):
            _write(runtime, {"status_reason": None})

    transact(write)


def is_delayed(runtime: Runtime) -> bool:
    """Whether the row shows why no worker can be started."""
    return (runtime.status_reason or "").startswith(DELAYED)


def _read(runtime_id: str, image: str) -> Runtime | None:
    runtimes = system("the pool manager serves all projects").runtimes()
    row: Runtime | None = runtimes.where((Runtime.id == runtime_id) & (Runtime.image == image)).get_or_none()
    return row


def _write(runtime: Runtime, columns: dict[str, Any]) -> bool:
    """Change a row, if it still is what was read: another process may change it in between."""
    same = (Runtime.id == runtime.id) & (Runtime.status == runtime.status) & (Runtime.image == runtime.image)
    on_trial = Runtime.previous_image.is_null(runtime.previous_image is None)
    written: int = Runtime.update(columns).where(same & on_trial).execute()
    return written > 0
