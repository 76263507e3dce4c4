"""What a worker answers when its disk can't take a package: the platform's failure, not the function's."""

from __future__ import annotations

import errno

INSUFFICIENT_STORAGE = 507
"""The HTTP status of `/load` for it. Other workers share the disk, so the service does not try them."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskError(Exception):
    """The disk can't take a package; the message is a sentence that says why.

    Args:
        error: what the system said.
    """

    def __init__(self, error: OSError) -> None:
        why = error.strerror or str(error)
        what = "The workers' disk is full" if error.errno in _FULL else "The worker's disk can't take the package"
        super().__init__(f"{what}: {why}.")
