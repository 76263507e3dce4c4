"""Data classes of the escape suite: attempts to escape, and the defences that stop them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """A change of a copy of the program that removes a defence from it.

    Attributes:
        path: the file, from the repository's root.
        old: the text to replace; the file has it exactly once.
        new: the text in its place.
    """

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Defence:
    """One defence against attempts.

    Attributes:
        removal: the changes that remove it; empty if a few changes of text can't do that, or would harm the machine.
        test: without a removal, the test that fails without this defence: its file in tests/, and its name.
        feature: the line of `make doctor` that says whether this host can enforce it; None: every host can.
        forms: the forms (`forms.FORMS`) that have this defence; None: all.
    """

    removal: tuple[Replacement, ...]
    feature: str | None = None
    forms: frozenset[str] | None = None
    test: str = ""

    def is_in(self, form: str) -> bool:
        """Whether this form has the defence, provided that the host can enforce it."""
        return self.forms is None or form in self.forms


@dataclass(frozen=True)
class Attempt:
    """One attempt of a hostile function.

    Attributes:
        name: what the attempt would reach, in a few words.
        source: a module with a function `attempt`, which returns whether it has succeeded. False or an OSError means
            that it was refused. The module may have a function `earlier`, which is called first in the same worker, and
            `other`, which is called then in another tenant's worker; their results are the arguments of `attempt`. The
            module may import `calls` (`call(name, *arguments)` makes a system call) and `host` (names of things to
            reach, see `bait.py`).
        defences: the names (in `defences.DEFENCES`) of the defences that stop it. Each of them alone is enough.
        refused_as: reasons of failed calls that count as a refusal, too, such as `memory`.
        succeeded_as: reasons of failed calls that count as a success.
        load: more fields of the worker's `X-Load` header, such as `isolation`; attempts with the same fields share
            their workers. In texts, MODULE stands for the name of the attempt's module.
        timeout_s: seconds that each call may take.
        pause_s: seconds without a call before `attempt`.
        outlives: `attempt` returns a word in the command line of a process. The worker is ended, and the attempt has
            succeeded if the process still runs then.
    """

    name: str
    source: str
    defences: tuple[str, ...]
    refused_as: tuple[str, ...] = ()
    succeeded_as: tuple[str, ...] = ()
    load: tuple[tuple[str, object], ...] = ()
    timeout_s: float = 10.0
    pause_s: float = 0.0
    outlives: bool = False
