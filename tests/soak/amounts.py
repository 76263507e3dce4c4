"""How much the soak tests do: few calls and kills in `make test`, many in `make soak`."""

from __future__ import annotations

import os

SOAKS = os.environ.get("SOAK") == "1"
CALLS = 10_000 if SOAKS else 200
KILLS = 50 if SOAKS else 3
