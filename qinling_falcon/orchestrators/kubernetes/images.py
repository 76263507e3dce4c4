"""Finds the image of a runtime's pods by the name that the runtime's `image` gives."""

from __future__ import annotations

import re

from qinling_falcon.orchestrators.base import UnknownImage
from qinling_falcon.orchestrators.runtime_table import find_entry, read_entries
from qinling_falcon.settings import Settings

# Host with port, path, tag and digest, as container engines read them.
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,})?"
)


def is_image_name(text: str) -> bool:
    """Whether an image can have this name."""
    return _IMAGE.fullmatch(text) is not None


class PodImages:
    """The images of `RUNTIMES_FILE`.

    Args:
        settings: the file, and the prefix of its images.

    Raises:
        SettingsError: the file is missing or wrong.
    """

    def __init__(self, settings: Settings):
        self._entries = read_entries(settings.runtimes_file)
        self._prefix = settings.kubernetes_image_prefix

    def resolve(self, image: str) -> str:
        """The image of the pods of a runtime: its own image, unless `RUNTIMES_FILE` has a `pod_image` for it.

        Raises:
            UnknownImage: no image can have this name.
        """
        entry = find_entry(self._entries, image)
        found = self._prefix + entry.pod_image if entry is not None and entry.pod_image else image
        if not is_image_name(found):
            raise UnknownImage(f"{found!r} can't be the name of an image")
        return found
