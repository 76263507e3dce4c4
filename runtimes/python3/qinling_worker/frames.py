"""The frames on the channel between a child and its supervisor.

From the child, a frame is a header and as many bytes as the header says. To the
child, a frame is a length and the body of the `/execute` request.
"""

from __future__ import annotations

import struct

REQUEST = struct.Struct("!I")
ANSWER = struct.Struct("!IBd")  # bytes that follow, kind, duration in seconds

BARE = 0  # alive, no user code yet; payload: resident bytes
LOADED = 1  # the function is ready
LOAD_FAILED = 2  # it can't be loaded; payload: why
VALUE = 3  # the function's result; payload: its JSON text
RAISED = 4  # the function raised; payload: the reason, NUL, and the exception's text
BAD_RESULT = 5  # its result can't be used; payload: why
# With isolation by call, from the process that has loaded the function:
FORKED = 6  # the process for the next call was forked; payload: its pid
ENDED = 7  # that process has ended; payload: its exit code, and 1 if it has left other processes, else 0

MAX_MESSAGE_SIZE = 16 * 1024  # of everything but a VALUE, in characters
