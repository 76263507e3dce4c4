"""The tree of folders, files and symbolic links that a package unpacks to. Links must stay inside the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .directory import Entry, too_many
from .errors import CONTROL, ZipError, shown
from .names import Name

_MAX_LINKS = 40  # the limit of Linux for one path


class Folder:
    """A folder. It has its own entry, or only appears in other entries' paths."""

    __slots__ = ("children", "depth", "name", "parent")

    def __init__(self, name: bytes, parent: Folder | None) -> None:
        self.name = name
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[bytes, Folder | File | Link] = {}

    @property
    def path(self) -> str:
        """The path from the package's top folder, whose path is empty."""
        return self.parent.path_of(self.name) if self.parent else ""

    def path_of(self, name: bytes) -> str:
        """The path of something in this folder."""
        parts = [name]
        folder = self
        while folder.parent is not None:
            parts.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(parts)).decode()


class File:
    """A regular file."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


class Link:
    """A symbolic link. Its target is not stored: `archive.Archive.target` reads it.

    Attributes:
        leads_to: the file or folder at the end of the link; None: the package has nothing there.
        hops: the number of links on the way, including this one; None: not followed yet.
        is_followed: whether the link is being followed at the moment; used to find circles.
    """

    __slots__ = ("entry", "hops", "is_followed", "leads_to")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.leads_to: Folder | File | None = None
        self.hops: int | None = None
        self.is_followed = False


class Tree:
    """All folders, files and links of a package. Each folder's name is stored once, however many names lead through it.

    Args:
        max_nodes: the most folders, files and links. Counting only entries would not limit the tree, because one name
            of 1,000 characters can create 500 folders.
        max_depth: the deepest nesting of folders; None: no limit but the length of names.
    """

    def __init__(self, max_nodes: int, max_depth: int | None) -> None:
        self.root = Folder(b"", None)
        self._max_nodes = max_nodes
        self._max_depth = max_depth
        self._count = 0

    def add_folder(self, entry: Entry, name: Name) -> None:
        """Add a folder that has its own entry. An existing folder stays as it is.

        Raises:
            ZipError: a file or link already has this name, or the folder is nested too deeply.
            ZipTooLarge: there are too many folders, files and links.
        """
        folder = self._folder(name, name.parts)
        entry.parent, entry.name = folder.parent, folder.name

    def add_file(self, entry: Entry, name: Name) -> None:
        """Add a file. It replaces a file of the same name, as it does when `unzip -o` unpacks both.

        Raises:
            ZipError, ZipTooLarge: as `add_folder`, and if its name is a folder's or a link's.
        """
        self._place(entry, name, File(entry))

    def add_link(self, entry: Entry, name: Name) -> None:
        """Add a symbolic link; raises as `add_file`, and if its name is a file's."""
        self._place(entry, name, Link(entry))

    @property
    def files(self) -> Iterator[File]:
        """All files."""
        return (node for node in self._nodes() if isinstance(node, File))

    @property
    def links(self) -> Iterator[Link]:
        """All symbolic links."""
        return (node for node in self._nodes() if isinstance(node, Link))

    def folders(self) -> Iterator[Folder]:
        """All folders except the top one; parents come before their children."""
        return (node for node in self._nodes() if isinstance(node, Folder))

    def check_links(self, target: Callable[[Link], str], pause: Callable[[], None]) -> None:
        """Follow every link as Linux does. Called when the tree is complete.

        Args:
            target: reads a link's target.
            pause: called before each link.

        Raises:
            ZipError: a link leads out of the package, in a circle, or through more links than Linux follows.
        """
        for link in self.links:
            pause()
            self._follow(link, 1, target)

    def clear(self) -> None:
        """Take the tree apart, so that no node keeps another one in memory."""
        for folder in [self.root, *self.folders()]:
            folder.children.clear()

    def _nodes(self) -> Iterator[Folder | File | Link]:
        waiting = [self.root]
        while waiting:
            for child in waiting.pop().children.values():
                yield child
                if isinstance(child, Folder):
                    waiting.append(child)

    def _place(self, entry: Entry, name: Name, node: File | Link) -> None:
        """Put a file or link into its folder."""
        *folders, own = name.parts
        parent = self._folder(name, folders)
        taken = parent.children.get(own)
        if isinstance(taken, Folder):
            raise _both(name, len(folders) + 1)
        if taken is None:
            self._count_one()
        elif isinstance(taken, Link) or isinstance(node, Link):
            raise ZipError(f"The package holds '{shown(name.text)}' twice; only a file may be there twice.")
        entry.parent, entry.name = parent, own
        parent.children[own] = node

    def _folder(self, name: Name, parts: list[bytes]) -> Folder:
        if self._max_depth is not None and len(parts) > self._max_depth:
            raise ZipError(
                f"The package holds a name that is {len(parts)} folders deep: '{shown(name.text)}'. At most "
                f"{self._max_depth} are allowed (MAX_PACKAGE_DEPTH)."
            )
        folder = self.root
        for depth, part in enumerate(parts, 1):
            child = folder.children.get(part)
            if child is None:
                self._count_one()
                child = folder.children[part] = Folder(part, folder)
            elif not isinstance(child, Folder):
                raise _both(name, depth)
            folder = child
        return folder

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self._max_nodes:
            raise too_many(self._max_nodes)

    def _follow(self, link: Link, depth: int, target: Callable[[Link], str]) -> None:
        """Find the end of a link. The result is stored, so each link is followed only once."""
        if link.hops is not None:
            return
        if link.is_followed:
            raise ZipError(f"The package holds a link that leads in a circle: '{link.entry.shown}'.")
        if depth > _MAX_LINKS:
            raise _too_many_links(link)
        link.is_followed = True
        hops = 1
        path = target(link)
        parent = link.entry.parent
        assert parent is not None
        node: Folder | File | None = parent
        depth_below = parent.depth  # depth of the path walked so far, even if it does not exist
        for part in path.encode().split(b"/"):
            if part in (b"", b"."):
                continue
            depth_below += -1 if part == b".." else 1
            if depth_below < 0:
                raise _leads_out(link, path)
            if part == b"..":
                node = node.parent if isinstance(node, Folder) else None
                continue
            child = node.children.get(part) if isinstance(node, Folder) else None
            if isinstance(child, Link):
                self._follow(child, depth + 1, target)
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


def target_of(entry: Entry, raw: bytes) -> str:
    """Decode a link's target.

    Raises:
        ZipError: it can't be a path in the package.
    """
    try:
        target = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ZipError(f"The package holds a link whose target is not UTF-8: '{entry.shown}'.") from None
    if not target or CONTROL.search(target):
        raise ZipError(f"The package holds a link whose target is not a path: '{entry.shown}' to '{shown(target)}'.")
    if target.startswith("/"):
        raise ZipError(f"The package holds a link to an absolute path: '{entry.shown}' to '{shown(target)}'.")
    return target


def _both(name: Name, depth: int) -> ZipError:
    path = shown(b"/".join(name.parts[:depth]).decode())
    return ZipError(f"The package holds '{path}' both as a file and as a folder.")


def _leads_out(link: Link, target: str) -> ZipError:
    return ZipError(f"The package holds a link that leads out of it: '{link.entry.shown}' to '{shown(target)}'.")


def _too_many_links(link: Link) -> ZipError:
    return ZipError(f"The package holds a link that leads through more than {_MAX_LINKS} others: '{link.entry.shown}'.")
