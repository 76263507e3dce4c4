"""What an attempt to escape is, and the defences that stop attempts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """A change of the program that takes a defence out of a copy of it.

    Attributes:
        path: the file, from the repository's root.
        old: a text that the file has exactly once.
        new: what is put in its place.
    """

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Defence:
    """One defence.

    Attributes:
        removal: the changes that take it out; none where that can't be done by changes of a few words.
        feature: the line of `make doctor` that says whether this host can enforce it; None: every host can.
        forms: the forms (`forms.FORMS`) that have it; None: all.
    """

    removal: tuple[Replacement, ...]
    feature: str | None = None
    forms: frozenset[str] | None = None

    def is_in(self, form: str) -> bool:
        """Whether this form has it, if the host can enforce it."""
        return self.forms is None or form in self.forms


@dataclass(frozen=True)
class Attempt:
    """One attempt of a hostile function.

    Attributes:
        name: what would be reached, in a few words.
        source: a module with a function `attempt`, which returns whether it has succeeded; False, and an OSError, are a
            refusal. It may have `other`, which is called before in a worker of another tenant, and `earlier`, which
            is called before in the same worker; `attempt` then gets their results (other's first) as arguments. It
            may import `calls` (`call(name, *arguments)`: a system call) and `host` (what there is to reach: `bait.py`).
        defences: the names (`defences.DEFENCES`) of those that stop it. Each of them stops it alone.
        refused_as: reasons of failed calls that are a refusal too, such as `memory`.
        load: fields of the worker's `X-Load`, such as `isolation`.
        timeout_s: of each call.
    """

    name: str
    source: str
    defences: tuple[str, ...]
    refused_as: tuple[str, ...] = ()
    load: tuple[tuple[str, object], ...] = ()
    timeout_s: float = 10.0
