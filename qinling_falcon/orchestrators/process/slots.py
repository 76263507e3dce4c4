"""User ids of the workers: two each, no two workers of this machine with the same."""

from __future__ import annotations

import heapq
import itertools
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
        self._given_back: list[int] = []  # numbers of pairs, a heap
        self._next = 0  # no pair from this number on was claimed

    def claim(self) -> Slot:
        """A free pair, of those with low numbers if possible. It is found without a look at all those that are held."""
        while self._given_back:
            slot = self._slot(heapq.heappop(self._given_back))
            if slot not in self._held and self.try_claim(slot):
                return slot
        # The ones before `_next` may have been another install's.
        for number in itertools.chain(range(self._next, MOST_SLOTS), range(self._next)):
            slot = self._slot(number)
            if slot not in self._held and self.try_claim(slot):
                self._next = max(self._next, number + 1)
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
        number = (slot.uid - self._base) // 2
        if 0 <= number < MOST_SLOTS and slot == self._slot(number):  # else it is from before `_base` was changed
            heapq.heappush(self._given_back, number)

    def _slot(self, number: int) -> Slot:
        return Slot(self._base + 2 * number, self._base + 2 * number + 1)
