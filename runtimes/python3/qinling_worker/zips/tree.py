"""The tree of folders, files and symbolic links that a package unpacks to. Links must stay inside the package."""

from __future__ import annotations

from collections.abc import Iterator

from .directory import Entry, too_many
from .errors import CONTROL, ZipError, shown

_MAX_LINKS = 40  # the limit of Linux for one path


class Folder:
    """A folder. It has its own entry, or only appears in other entries' paths."""

    __slots__ = ("children", "depth", "name", "parent")

    def __init__(self, name: str, parent: Folder | None) -> None:
        self.name = name
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[str, Folder | File | Link] = {}

    @property
    def path(self) -> str:
        """The path relative to the package's top folder, whose path is empty."""
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
        target: the link's path, relative to its own folder.
        leads_to: the file or folder at the end of the link; None: the package has nothing there.
        hops: the number of links on the way, including this one; None: not followed yet.
        is_followed: whether the link is being followed at the moment; used to find circles.
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
        max_nodes: the most folders, files and links. Counting only entries would not limit the tree, because one name
            of 1,000 characters can create 500 folders.
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
        """Add a folder that has its own entry. An existing folder stays as it is.

        Raises:
            ZipError: a file or link already has this name, or the folder is nested too deeply.
            ZipTooLarge: there are too many folders, files and links.
        """
        self._folder(entry, entry.name.parts)

    def add_file(self, entry: Entry) -> None:
        """Add a file. Raises as `add_folder` does, and if the name is taken."""
        parent = self._place(entry)
        file = parent.children[entry.name.parts[-1]] = File(entry)
        self.files.append(file)

    def add_link(self, entry: Entry, target: bytes) -> None:
        """Add a symbolic link. Raises as `add_file` does, and if the target is not a valid path in the package."""
        parent = self._place(entry)
        link = parent.children[entry.name.parts[-1]] = Link(entry, parent, _target(entry, target))
        self.links.append(link)

    def folders(self) -> Iterator[Folder]:
        """All folders except the top one; parents come before their children."""
        waiting = [self.root]
        while waiting:
            for child in waiting.pop().children.values():
                if isinstance(child, Folder):
                    yield child
                    waiting.append(child)

    def check_links(self) -> None:
        """Follow every link as Linux does. Called when the tree is complete.

        Raises:
            ZipError: a link leads out of the package, in a circle, or through more links than Linux follows.
        """
        for link in self.links:
            self._follow(link, 1)

    def _place(self, entry: Entry) -> Folder:
        """The folder for a new file or link. The name must be free in it."""
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
        """Find the end of a link. The result is stored, so each link is followed only once."""
        if link.hops is not None:
            return
        if link.is_followed:
            raise ZipError(f"The package holds a link that leads in a circle: '{link.entry.shown}'.")
        if depth > _MAX_LINKS:
            raise _too_many_links(link)
        link.is_followed = True
        hops = 1
        node: Folder | File | None = link.parent
        depth_below = link.parent.depth  # depth of the path walked so far, even if it does not exist
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
        raise ZipError(f"The package holds a link whose target is not a path: '{entry.shown}' to '{shown(target)}'.")
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
