"""What is imported before there is a function: modules that many functions need, and the child's own.

This is imported before the rest of this package, so that `KEPT` names little more than
what is listed here. A child removes all other modules from `sys.modules`: a package may
have a module with the same name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

_WARM = (
    "_json", "abc", "base64", "collections", "contextlib", "copy", "ctypes", "dataclasses", "datetime", "decimal",
    "enum", "functools", "hashlib", "importlib", "inspect", "io", "itertools", "json", "linecache", "logging", "math",
    "operator", "os", "pathlib", "random", "re", "select", "socket", "string", "struct", "tempfile", "threading",
    "time", "tokenize", "traceback", "types", "typing", "urllib.parse", "uuid", "warnings", "weakref",
)  # fmt: skip


def _import_all() -> frozenset[str]:
    for name in _WARM:
        importlib.import_module(name)
    return frozenset(name for name in sys.modules if name.partition(".")[0] not in (__package__, "__main__"))


KEPT = _import_all()


def load_sealed(*names: str) -> Any:
    """Import modules of this package with their own copy of the builtins, so that user code can't patch theirs.

    Args:
        names: the modules; each one comes after the modules that it imports from.

    Returns:
        The last module.
    """
    sealed = types.ModuleType("builtins")
    sealed.__dict__.update(vars(importlib.import_module("builtins")))
    for name in names:
        spec = importlib.util.find_spec(f"{__package__}.{name}")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        module.__dict__["__builtins__"] = sealed.__dict__
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module
