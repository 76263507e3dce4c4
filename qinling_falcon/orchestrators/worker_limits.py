"""The limits that a worker's program is given in its configuration (see runtimes/python3/README.md)."""

from __future__ import annotations

from typing import Any

from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

BASE_MEMORY = 64 * MIB
"""Memory of the supervisor, its template process, and the interpreter itself in the child."""

_NAMES = (
    "max_result_size", "max_log_size", "max_processes", "max_open_files", "max_file_size", "load_timeout_s",
    "unpack_timeout_s", "tmp_size", "max_package_files", "max_unpacked_size",
)  # fmt: skip


def limits_of(settings: Settings) -> dict[str, Any]:
    """The limits that are settings, by their names in the configuration."""
    return {name: getattr(settings, name) for name in _NAMES}
