"""User ids of the workers: two each, no two workers of this machine with the same."""

from __future__ import annotations

import socket
from dataclasses import dataclass

MOST_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Slot:
    """A pair of user ids that is one worker's.

    Attributes:
        uid: of the worker's supervisor; its group has the same number.
        child_uid: of the process that runs user code.
    """

    uid: int
    child_uid: int


class Slots:
    """Hands out pairs of user ids.

    A pair is claimed for the machine by binding an abstract socket of its name: installs side by side never
    share a pair, and the kernel frees what a killed manager held.
    """

    def __init__(self, base: int):
        self._base = base
        self._held: dict[Slot, socket.socket] = {}

    def claim(self) -> Slot:
        """The first free pair."""
        for number in range(MOST_SLOTS):
            slot = Slot(self._base + 2 * number, self._base + 2 * number + 1)
            if slot not in self._held and self.try_claim(slot):
                return slot
        raise RuntimeError(f"no free user ids from SANDBOX_UID_BASE={self._base} on")

    def try_claim(self, slot: Slot) -> bool:
        """Take this pair, unless somebody has it."""
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0qinling-falcon-uid-{slot.uid}")
        except OSError:
            claim.close()
            return False
        self._held[slot] = claim
        return True

    def release(self, slot: Slot) -> None:
        """Give the pair back; nothing runs under it any more."""
        self._held.pop(slot).close()
