"""Ending what an earlier manager of the same install left behind, and nothing of any other install."""

from __future__ import annotations

import logging

from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.cgroups import Group, Subtree, await_removed, groups_below
from qinling_falcon.orchestrators.process.homes import Homes
from qinling_falcon.orchestrators.process.install import Install
from qinling_falcon.orchestrators.process.slots import Slots

_log = logging.getLogger(__name__)
_TIMEOUT_S = 10.0


def sweep(install: Install, subtree: Subtree, homes: Homes, slots: Slots) -> None:
    """Kill the processes, by control group, mark and user id, and remove groups and folders."""
    old = [folder for folder in install.remembered_groups() if folder not in subtree.folders]
    install.remember_groups([*subtree.folders, *old])
    groups = groups_below([*subtree.folders, *old])
    homes_left = list(homes.left())
    # A pair of user ids that somebody else has claimed since is theirs.
    claimed = [slot for slot in {home.slot for home in homes_left} if slot and slots.try_claim(slot)]
    uids = {uid for slot in claimed for uid in (slot.uid, slot.child_uid)}
    mark = leftovers.mark(install.install_id)

    def kill_found() -> bool:
        full = [group for group in groups if group.processes()]
        for group in full:
            group.kill()
        return leftovers.kill_found([mark], uids) or bool(full)

    if not leftovers.end(kill_found, _TIMEOUT_S):
        _log.error("sweep_incomplete groups=%s", sum(bool(group.processes()) for group in groups))
    _remove_groups(groups)
    for home in homes_left:
        home.remove()
    for slot in claimed:
        slots.release(slot)
    for folder in old:
        Group([folder]).remove()
    install.remember_groups([*subtree.folders, *(folder for folder in old if folder.is_dir())])
    if groups or homes_left:
        _log.info("swept groups=%d folders=%d", len(groups), len(homes_left))


def _remove_groups(groups: list[Group]) -> None:
    for group in groups:
        if not await_removed(group):
            _log.error("sweep_group_busy processes=%s", sorted(group.processes()))
