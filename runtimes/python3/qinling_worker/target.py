"""What a worker has been given to serve."""

from __future__ import annotations

import json
import math
import os
from typing import NamedTuple

WARM, PER_CALL = "warm", "per_call"


class Target(NamedTuple):
    """What this worker serves, until it ends."""

    name: str
    entry: str
    memory_size: int
    cpu: int
    per_call: bool  # whether each call runs in a process of its own

    @classmethod
    def decode(cls, header: bytes) -> Target:
        """Read the X-Load header."""
        given = json.loads(header.decode("ascii"))
        if not isinstance(given, dict):
            raise TypeError("it must be a JSON object")
        if given.get("isolation", WARM) not in (WARM, PER_CALL):
            raise ValueError(f"isolation is {WARM} or {PER_CALL}")
        per_call = given.get("isolation") == PER_CALL
        target = cls(given["target"], given["entry"], given["memory_size"], given["cpu"], per_call)
        if not (isinstance(target.name, str) and isinstance(target.entry, str)):
            raise TypeError("target and entry are texts")
        if any(type(number) is not int or number <= 0 for number in (target.memory_size, target.cpu)):
            raise TypeError("memory_size and cpu are positive numbers")
        return target

    def set_cpu(self, fd: int, kind: str) -> None:
        """Write the CPU's part of this function into a cgroup file of `kind` "shares" or "weight"."""
        if kind == "weight":
            value = min(10_000, max(1, round(self.cpu / 10)))  # 100 is a whole core's, as 1024 shares are
        else:
            value = max(2, math.ceil(self.cpu * 1024 / 1000))
        os.pwrite(fd, b"%d" % value, 0)
