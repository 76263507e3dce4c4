"""Whether this process can serve: its neighbours are asked, each with its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

Check = Callable[[], object]


def missing(checks: Mapping[str, Check]) -> list[str]:
    """Names of the neighbours that don't answer.

    Args:
        checks: by name, a call that raises when the neighbour is away.
    """
    away = []
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            # Whatever a client library raises here means the same to whoever asks.
            logger.warning("neighbour is away", extra={"neighbour": name, "reason": str(error)})
            away.append(name)
    return away
