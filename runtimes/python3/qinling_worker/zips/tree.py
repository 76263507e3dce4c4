"""The tree that a package unpacks to: folders, files, and symbolic links that stay inside the package."""

from __future__ import annotations

from collections.abc import Iterator

from .directory import Entry, too_many
from .errors import CONTROL, ZipError, shown

_MAX_LINKS = 40  # as many as Linux follows on one path


class Folder:
    """A folder, whether it has an entry of its own or only the names of others imply it."""

    __slots__ = ("children", "depth", "name", "parent")

    def __init__(self, name: str, parent: Folder | None) -> None:
        self.name = name
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[str, Folder | File | Link] = {}

    @property
    def path(self) -> str:
        """From the package's top folder, whose path is empty."""
        parts = []
        folder = self
        while folder.parent is not None:
            parts.append(folder.name)
            folder = folder.parent
        return "/".join(reversed(parts))


class File:
    """A regular file."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


class Link:
    """A symbolic link.

    Attributes:
        target: the path that it holds, relative to its own folder.
        leads_to: the file or folder at its end; None: the package has nothing there.
        hops: how many links are followed on the way, itself included; None: not followed yet.
        is_followed: whether it is being followed now, which finds circles.
    """

    __slots__ = ("entry", "hops", "is_followed", "leads_to", "parent", "target")

    def __init__(self, entry: Entry, parent: Folder, target: str) -> None:
        self.entry = entry
        self.parent = parent
        self.target = target
        self.leads_to: Folder | File | None = None
        self.hops: int | None = None
        self.is_followed = False


class Tree:
    """All folders, files and links of a package.

    Args:
        max_nodes: folders, files and links that it may have at most. A name of 1,000 characters may imply 500
            folders, so counting the entries alone would bound nothing.
        max_depth: the deepest nesting of folders; None: no limit but the length of names.
    """

    def __init__(self, max_nodes: int, max_depth: int | None) -> None:
        self.root = Folder("", None)
        self.files: list[File] = []
        self.links: list[Link] = []
        self._max_nodes = max_nodes
        self._max_depth = max_depth
        self._count = 0

    def add_folder(self, entry: Entry) -> None:
        """Add a folder that has an entry of its own; one that is there already stays as it is.

        Raises:
            ZipError: its name is a file's or a link's already, or too deep.
            ZipTooLarge: there are too many folders, files and links.
        """
        self._folder(entry, entry.name.parts)

    def add_file(self, entry: Entry) -> None:
        """Add a file; raises as `add_folder`, and if its name is taken."""
        parent = self._place(entry)
        file = parent.children[entry.name.parts[-1]] = File(entry)
        self.files.append(file)

    def add_link(self, entry: Entry, target: bytes) -> None:
        """Add a symbolic link; raises as `add_file`, and if the target can't be a path in the package."""
        parent = self._place(entry)
        link = parent.children[entry.name.parts[-1]] = Link(entry, parent, _target(entry, target))
        self.links.append(link)

    def folders(self) -> Iterator[Folder]:
        """All folders but the top one, each after the folder that it lies in."""
        waiting = [self.root]
        while waiting:
            for child in waiting.pop().children.values():
                if isinstance(child, Folder):
                    yield child
                    waiting.append(child)

    def check_links(self) -> None:
        """Follow every link as Linux does, once everything is in the tree.

        Raises:
            ZipError: one leads out of the package or in a circle, or more links than Linux follows lead to its end.
        """
        for link in self.links:
            self._follow(link, 1)

    def _place(self, entry: Entry) -> Folder:
        """The folder for a new file or link, whose name must be free in it."""
        parts = entry.name.parts
        parent = self._folder(entry, parts[:-1])
        taken = parent.children.get(parts[-1])
        if isinstance(taken, Folder):
            raise _both(entry, len(parts))
        if taken is not None:
            raise ZipError(f"The package holds '{entry.shown}' twice.")
        self._count_one()
        return parent

    def _folder(self, entry: Entry, parts: tuple[str, ...]) -> Folder:
        if self._max_depth is not None and len(parts) > self._max_depth:
            raise ZipError(
                f"The package holds a name that is {len(parts)} folders deep: '{entry.shown}'. At most "
                f"{self._max_depth} are allowed (MAX_PACKAGE_DEPTH)."
            )
        folder = self.root
        for depth, part in enumerate(parts, 1):
            child = folder.children.get(part)
            if child is None:
                self._count_one()
                child = folder.children[part] = Folder(part, folder)
            elif not isinstance(child, Folder):
                raise _both(entry, depth)
            folder = child
        return folder

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self._max_nodes:
            raise too_many(self._max_nodes)

    def _follow(self, link: Link, depth: int) -> None:
        """Find the end of a link. The result is kept, so each link is followed once however many lead through it."""
        if link.hops is not None:
            return
        if link.is_followed:
            raise ZipError(f"The package holds a link that leads in a circle: '{link.entry.shown}'.")
        if depth > _MAX_LINKS:
            raise _too_many_links(link)
        link.is_followed = True
        hops = 1
        node: Folder | File | None = link.parent
        depth_below = link.parent.depth  # of the place that the walk has reached, also where there is nothing
        for part in link.target.split("/"):
            if part in ("", "."):
                continue
            depth_below += -1 if part == ".." else 1
            if depth_below < 0:
                raise _leads_out(link)
            if part == "..":
                node = node.parent if isinstance(node, Folder) else None
                continue
            child = node.children.get(part) if isinstance(node, Folder) else None
            if isinstance(child, Link):
                self._follow(child, depth + 1)
                assert child.hops is not None
                hops += child.hops
                if hops > _MAX_LINKS:
                    raise _too_many_links(link)
                node = child.leads_to
                if isinstance(node, Folder):
                    depth_below = node.depth
            else:
                node = child
        link.leads_to, link.hops = node, hops


def _target(entry: Entry, raw: bytes) -> str:
    try:
        target = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ZipError(f"The package holds a link whose target is not UTF-8: '{entry.shown}'.") from None
    if not target or CONTROL.search(target):
        raise ZipError(f"The package holds a link whose target is no path: '{entry.shown}' to '{shown(target)}'.")
    if target.startswith("/"):
        raise ZipError(f"The package holds a link to an absolute path: '{entry.shown}' to '{shown(target)}'.")
    return target


def _both(entry: Entry, depth: int) -> ZipError:
    name = shown("/".join(entry.name.parts[:depth]))
    return ZipError(f"The package holds '{name}' both as a file and as a folder.")


def _leads_out(link: Link) -> ZipError:
    return ZipError(f"The package holds a link that leads out of it: '{link.entry.shown}' to '{shown(link.target)}'.")


def _too_many_links(link: Link) -> ZipError:
    return ZipError(f"The package holds a link that leads through more than {_MAX_LINKS} others: '{link.entry.shown}'.")
