"""Keeps a function from working while no call of it runs.

Where its processes have a control group of version 2, that is frozen. The template may be in it, too. Elsewhere, the
template stops the processes below it. SIGKILL ends processes in both states, as it does not in a frozen group of
version 1.
"""

from __future__ import annotations

import os

from .template_link import TemplateLink


class Freezer:
    """Freezes the child's processes.

    Args:
        fd: of the group's file `cgroup.freeze`; None: there is none.
        template: the template.

    Attributes:
        frozen: whether they are frozen.
    """

    def __init__(self, fd: int | None, template: TemplateLink) -> None:
        self._fd = fd
        self._template = template
        self.frozen = False

    def freeze(self, child: int) -> None:
        """Freeze them. The template may obey no command until `thaw`.

        Args:
            child: the pid of one of them.
        """
        if self._fd is not None and not _is_in_child_group(child):
            self._fd = None
        if self._fd is None:
            self._template.pause()
        else:
            os.pwrite(self._fd, b"1", 0)
        self.frozen = True

    def thaw(self) -> None:
        """Let them run again."""
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
