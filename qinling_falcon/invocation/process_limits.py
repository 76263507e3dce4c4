"""The sizes of the limits of a web process: how many requests it holds, and how much memory their inputs use.

Calls (`admission.py`) have limits of these sizes, and so have requests that are being accepted (`accept_limits.py`).
"""

from __future__ import annotations

from qinling_falcon.settings import Settings

# Inputs up to this many bytes are not counted: the number of requests is limited, so they use little memory in total.
_SMALL_INPUT = 4096
# The limit is at least this many times the largest input. A Python string with one wide character uses four bytes for
# each character, so the largest input may use four times its size.
_LARGEST_INPUTS = 8


def most_places(settings: Settings) -> int:
    """The number of places. A quarter of the connections is left for health checks, lists and uploads."""
    return settings.web_connections * 3 // 4


def most_input_bytes(settings: Settings) -> int:
    """The bytes of memory that the inputs may use."""
    largest = max(settings.max_input_size, settings.async_max_input_size)
    return max(settings.max_held_input_size, _LARGEST_INPUTS * largest)


def counted_size(size: int) -> int:
    """The bytes to count for an input of `size` bytes: 0 up to 4 KiB, else its size."""
    return 0 if size <= _SMALL_INPUT else size
