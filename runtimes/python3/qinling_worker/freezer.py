"""Stops a function's processes while no call runs.

There are two ways: 1. If the processes are in a control group of version 2, the group is frozen, and with it the
template if that is in the group. 2. Otherwise the template sends SIGSTOP to the processes below it. SIGKILL ends
processes in both states. The freezer of version 1 is not used, because SIGKILL does not end processes that it has
frozen.
"""

from __future__ import annotations

import os

from .template_link import TemplateLink


class Freezer:
    """Freezes the child's processes.

    Args:
        fd: the descriptor of the group's file `cgroup.freeze`; None without a group.
        template: the link to the template.

    Attributes:
        frozen: whether the processes are frozen or stopped.
    """

    def __init__(self, fd: int | None, template: TemplateLink) -> None:
        self._fd = fd
        self._template = template
        self._checked: int | None = None
        self.frozen = False

    def freeze(self, child: int) -> None:
        """Freeze the processes. The template may not answer commands until `thaw`.

        Args:
            child: the pid of the child. It shows whether the processes are in the group.
        """
        if child != self._checked:
            self._checked = child
            if self._fd is not None and not _is_in_child_group(child):
                self._fd = None
        if self._fd is None:
            self._template.pause()
        else:
            os.pwrite(self._fd, b"1", 0)
        self.frozen = True

    def thaw(self) -> None:
        """Let the processes run again."""
        self.frozen = False
        if self._fd is None:
            self._template.resume()
        else:
            os.pwrite(self._fd, b"0", 0)


def _is_in_child_group(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    return any(line.startswith(b"0::") and line.endswith((b"/child", b".child")) for line in lines)
