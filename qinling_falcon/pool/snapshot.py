"""Reads what the script `snapshot` returns."""

from __future__ import annotations

from typing import Any

_HASHES = (
    "runtimes", "lost", "bare", "worker", "concurrency", "waiting", "policy", "journal", "counts",
)  # fmt: skip
_SETS = ("workers", "live", "assigned", "entries")


def read_snapshot(reply: list[Any]) -> dict[str, Any]:
    """The pool's keys by name (without their common beginning), and `now` in milliseconds.

    Hashes become dicts, sets sets, and sorted sets dicts of scores in their order.
    """
    words = iter(reply[1:])
    snapshot: dict[str, Any] = {"now": int(reply[0])}
    for name, value in zip(words, words, strict=True):
        text = name.decode()
        snapshot[text] = _read(text.split(":", 1)[0], [part.decode() for part in value])
    return snapshot


def _read(kind: str, value: list[str]) -> dict[str, str] | dict[str, float] | set[str]:
    if kind in _SETS:
        return set(value)
    pairs = dict(zip(value[::2], value[1::2], strict=True))
    return pairs if kind in _HASHES else {member: float(score) for member, score in pairs.items()}
