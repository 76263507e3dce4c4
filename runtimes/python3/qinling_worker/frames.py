"""How a child tells its supervisor something: a header, then as many bytes as it names.

Towards the child a frame is a length and the body of the `/execute` request.
"""

from __future__ import annotations

import struct

REQUEST = struct.Struct("!I")
ANSWER = struct.Struct("!IBd")  # bytes that follow, kind, duration in seconds

BARE = 0  # alive, no user code yet; payload: resident bytes
LOADED = 1  # the function is ready
LOAD_FAILED = 2  # it can't be loaded; payload: why
VALUE = 3  # the function's result; payload: its JSON text
RAISED = 4  # it raised; payload: what for the caller to read, NUL, and the exception's text
BAD_RESULT = 5  # its result can't be used; payload: why
OUT_OF_MEMORY = 6  # it, or its import, raised MemoryError; payload: as of RAISED, or of LOAD_FAILED

MAX_MESSAGE_SIZE = 16 * 1024  # of everything but a VALUE, in characters
