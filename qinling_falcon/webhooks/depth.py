"""The depth of callbacks: it ends loops of functions that call each other by callbacks.

A request that is a callback has the depth in a header: one more than that of the execution that has ended. An execution
that such a request starts has the depth of the request. All others have the depth 0.
"""

from __future__ import annotations

HEADER = "Qinling-Callback-Depth"
# An execution of this depth has no callback.
DEEPEST = 3


def read_depth(header: str | None) -> int:
    """The depth of a request, at most `DEEPEST`.

    Args:
        header: the value of the header `HEADER`; None: the request does not have it. A value that is not a number
            counts as 0.
    """
    if header is None or not header.isascii() or not header.isdigit():
        return 0
    return min(int(header[:9]), DEEPEST)  # the start of a longer number is greater, too
