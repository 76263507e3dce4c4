"""The table in `RUNTIMES_FILE`: what stands behind the names that users give as a runtime's `image`.

config/runtimes.toml describes its keys.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinling_falcon.settings import Settings, SettingsError

_KEYS = {"images": list, "program": str, "python": str, "register": bool, "zygote": bool, "pod_image": str}


@dataclass(frozen=True, slots=True)
class Entry:
    """One runtime of the table.

    Attributes:
        name: its name.
        images: the names that users give as `image`.
        program: the program that runs in a local worker.
        python: the interpreter of local workers; empty: that of the service.
        register: whether the `release` step registers it.
        zygote: whether the program can be a zygote.
        pod_image: the image of its pods; empty: the name that the user gave.
    """

    name: str
    images: tuple[str, ...]
    program: Path
    python: str
    register: bool
    zygote: bool
    pod_image: str


def read_entries(path: Path) -> list[Entry]:
    """Read the table.

    Raises:
        SettingsError: the file is missing or wrong; the message says where.
    """
    try:
        tables = tomllib.loads(path.read_text())["runtimes"]
        return [_entry(path.parent, name, table) for name, table in tables.items()]
    except OSError as error:
        raise SettingsError(f"RUNTIMES_FILE={path}: expected a readable file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, KeyError, AttributeError, ValueError) as error:
        raise SettingsError(f"RUNTIMES_FILE={path}: expected tables [runtimes.NAME] ({error})") from None


def find_entry(entries: Sequence[Entry], image: str) -> Entry | None:
    """The runtime with an image. A tag or digest is ignored unless the table names it."""
    for wanted in (image, _without_tag(image)):
        for entry in entries:
            if wanted in entry.images:
                return entry
    return None


def registered(settings: Settings) -> list[tuple[str, str]]:
    """The runtimes that the `release` step registers, as pairs of name and image."""
    return [(entry.name, entry.images[0]) for entry in read_entries(settings.runtimes_file) if entry.register]


def _entry(folder: Path, name: str, table: dict[str, Any]) -> Entry:
    for key, value in table.items():
        if key not in _KEYS:
            raise ValueError(f"{name}: unknown key {key}, expected {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise ValueError(f"{name}: {key} has the wrong type")  # noqa: TRY004 - one kind of error for the caller
    images = table.get("images") or []
    if not images or not all(isinstance(image, str) and image for image in images) or not table.get("program"):
        raise ValueError(f"{name}: images and program are needed")
    python = table.get("python", "")
    if python and not Path(python).is_absolute():
        raise ValueError(f"{name}: python is not an absolute path")
    program = Path(os.path.normpath(folder / table["program"]))
    register, zygote = table.get("register", False), table.get("zygote", False)
    return Entry(name, tuple(images), program, python, register, zygote, table.get("pod_image", ""))


def _without_tag(image: str) -> str:
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
