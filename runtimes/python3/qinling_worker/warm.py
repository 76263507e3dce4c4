"""Imports modules before a function is known: those that many functions need, and those of the child itself.

This module is imported before the rest of this package, so that `hide_others` hides all modules that are not listed
here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from typing import NoReturn

from . import LOADED_AT_START

_WARM = (
    "_json", "abc", "base64", "collections", "contextlib", "copy", "ctypes", "dataclasses", "datetime", "decimal",
    "enum", "functools", "hashlib", "importlib", "inspect", "io", "itertools", "json", "linecache", "logging", "math",
    "operator", "os", "pathlib", "random", "re", "select", "socket", "string", "struct", "tempfile", "threading",
    "time", "tokenize", "traceback", "types", "typing", "urllib.parse", "uuid", "warnings", "weakref",
)  # fmt: skip
# The child's own modules. Each comes after those that it imports from.
_SEALED = ("failures", "interpreter", "printing", "timers", "event_loop", "results", "signatures", "loading", "child")


def _import_all() -> frozenset[str]:
    for name in _WARM:
        importlib.import_module(name)
    return frozenset(name for name in sys.modules if name.partition(".")[0] not in (__package__, "__main__"))


_KEPT = _import_all()
# Python itself does not have these at its start.
_AHEAD = {name.partition(".")[0] for name in _KEPT - LOADED_AT_START}
_hidden: list[types.ModuleType] = []


def hide_others() -> None:
    """Remove all modules that are not listed here from `sys.modules`: a package may have modules with the same names.

    Modules that have imported them still have them.
    """
    for name in [name for name in sys.modules if name not in _KEPT and name != "__main__"]:
        _hidden.append(sys.modules.pop(name))


def hide_shadowed(code_dir: str) -> None:
    """Remove from `sys.modules` each module that was imported ahead and whose name a module of the package has.

    `import` then finds the package's modules, as in a Python that has imported nothing ahead.
    """
    try:
        names = {entry.partition(".")[0] for entry in os.listdir(code_dir)}
    except OSError:
        return  # loading the package then fails with a clear error
    for name in names & _AHEAD:
        if _is_in(code_dir, name):
            for each in [each for each in sys.modules if each.partition(".")[0] == name]:
                _hidden.append(sys.modules.pop(each))


def _is_in(folder: str, name: str) -> bool:
    """Whether `import` would find a module in this folder: built-in modules, for example, come before it."""
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec.has_location and str(spec.origin).startswith(f"{folder}/")
    return False


def import_child() -> Callable[..., NoReturn]:
    """Import `child.run` with a copy of the builtins for its modules, so that user code can't patch what it calls."""
    sealed = types.ModuleType("builtins")
    sealed.__dict__.update(vars(importlib.import_module("builtins")))
    for name in _SEALED:
        spec = importlib.util.find_spec(f"{__package__}.{name}")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        module.__dict__["__builtins__"] = sealed.__dict__
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    run: Callable[..., NoReturn] = module.run
    return run
