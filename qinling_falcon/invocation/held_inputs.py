"""How much memory of a web process the inputs of its requests may use."""

from __future__ import annotations

from qinling_falcon.settings import Settings

# Inputs up to this many bytes are not counted: the number of requests is limited, so they use little memory in total.
_SMALL_INPUT = 4096
# The limit is at least this many times the largest input. A Python string with one wide character uses four bytes for
# each character, so the largest input may use four times its size.
_LARGEST_INPUTS = 8


def most_held(settings: Settings) -> int:
    """How many bytes the inputs of calls may use, and as many those of executions that are being accepted."""
    largest = max(settings.max_input_size, settings.async_max_input_size)
    return max(settings.max_held_input_size, _LARGEST_INPUTS * largest)


def counted_size(size: int) -> int:
    """The bytes for which an input of `size` bytes counts; 0 for a small one."""
    return 0 if size <= _SMALL_INPUT else size
