"""Imports the function that an entry names, or explains why it can't be loaded.

This runs in the child process, which imports the package's modules here. These
may patch anything, but then they only make their own error message wrong.
"""

from __future__ import annotations

import importlib
import os.path
import sys
from collections.abc import Callable, Iterable
from os import scandir
from types import FunctionType, ModuleType
from typing import Any

from .failures import NotLoaded, bounded, cut, described, encoded, is_of_the_call, place_of, type_name
from .signatures import is_async

_MAX_NAMES = 20
_MAX_NAME = 40
_MAX_DEPTH = 10
_MAX_PATH = 100
_MAX_ENTRIES = 1000  # entries of a folder that are listed
_HIDDEN = ("__MACOSX", "__pycache__")  # folders that other programs add to packages
_import_module = importlib.import_module
_isdir, _isfile = os.path.isdir, os.path.isfile


def load(entry: str, code_dir: str) -> Callable[..., Any]:
    """Import the module that `entry` names, and find its function.

    Raises:
        NotLoaded: the entry names nothing that can be called.
        BaseException: the error of the import.
    """
    module_name, _, function_name = entry.rpartition(".")
    if not module_name or not function_name:
        raise NotLoaded(f"The entry must be module.function, such as main.main, not {entry!r}.")
    try:
        module = _import_module(module_name)
    except ModuleNotFoundError as error:
        if not is_of_the_call(error) or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # one of its own imports has failed
        raise NotLoaded(_no_module(str(error.name), code_dir)) from None
    try:
        function = getattr(module, function_name)
    except AttributeError:
        raise NotLoaded(_no_function(module, module_name, function_name, code_dir)) from None
    if isinstance(function, ModuleType):
        raise NotLoaded(_is_module(module_name, function_name))
    if not callable(function):
        kind = cut(type_name(type(function)), _MAX_NAME)
        raise NotLoaded(f"{function_name!r} in module {module_name!r} is not a function; it is of type {kind}.")
    if is_async(function):
        import asyncio  # noqa: F401 - takes 40 ms, which are not to be part of the first call
    return function  # type: ignore[no-any-return]  # `callable` leaves its type open


def message_of(entry: str, error: BaseException, code_dir: str) -> bytes:
    """Why `entry` can't be loaded."""
    try:
        said = str(error) if isinstance(error, NotLoaded) else _raised(error, code_dir)
    except BaseException:
        said = described(error)
    return encoded(f"Function {entry!r} can't be loaded. {said}")


def _raised(error: BaseException, code_dir: str) -> str:
    """The message for an error that the module itself raised, with the place."""
    said, place = bounded(described(error)), place_of(error, code_dir)
    if place is not None and not isinstance(error, SyntaxError):  # its text already has the place
        said += f" ({place})"
    if type(error) is ModuleNotFoundError and type(error.name) is str:
        top = error.name.partition(".")[0]
        wrapped = _wrapped(top, code_dir)
        if wrapped:
            return f"{said}. {wrapped}"
        if top not in sys.modules:
            return f"{said}. Neither the package nor the runtime has it: put it into the package, beside your modules."
    return f"{said}."


def _no_module(name: str, code_dir: str) -> str:
    parent, _, last = name.rpartition(".")
    path = name.replace(".", "/")
    entries = _entries(code_dir)
    if entries == ["-"]:
        return (
            "The package's only file is named '-', as in an archive of a stream (cat main.py | zip out.zip -). Zip the "
            "file itself: zip out.zip main.py."
        )
    alike = _alike(last, _entries(os.path.join(code_dir, parent.replace(".", "/"))))
    if alike:
        return alike
    listed = _listed(entries)
    top = f"at its top level are: {listed}."
    if last == "py" and _isfile(os.path.join(code_dir, f"{parent}.py")):
        return f"The entry names the file {parent}.py instead of the module: write {parent}.FUNCTION."
    holder = sys.modules.get(parent)
    if parent and type(holder) is ModuleType and not hasattr(holder, "__path__"):
        only = f"{parent!r} is a module, not a folder. The entry must be module.function; a method can't be one."
        return f"There is no module {name!r} in the package: {only} The package has at its top level: {listed}."
    said = f"There is no module {name!r} ({path}.py or {path}/__init__.py) in the package; "
    if parent and _isdir(os.path.join(code_dir, parent.replace(".", "/"))):
        folder = parent.replace(".", "/")
        said += f"in its folder {folder}/ are: {_listed(_entries(os.path.join(code_dir, folder)))}; "
    return f"{said}{top} {_wrapped(name.partition('.')[0], code_dir)}".rstrip()


def _alike(name: str, entries: list[str]) -> str | None:
    """Why the module is not found though the package's listing shows its name: Unicode has two ways to write it."""
    import unicodedata  # only for this message

    normalize = unicodedata.normalize
    composed = normalize("NFC", name)
    for entry in entries:
        if entry.isascii() or normalize("NFC", entry) not in (f"{composed}.py", f"{composed}/"):
            continue
        forms = [
            "NFC" if text == normalize("NFC", text) else "NFD" if text == normalize("NFD", text) else "mixed forms"
            for text in (entry, name)
        ]
        return (
            f"The package has {entry}, whose name looks like the entry's {name!r} but is composed of other characters: "
            f"the package's name is in Unicode's {forms[0]}, the entry's in {forms[1]}. Write both in the same form, "
            "or name the module in ASCII."
        )
    return None


def _wrapped(name: str, code_dir: str) -> str:
    """A hint if the module is in a folder, because the folder itself was zipped; else empty."""
    folder, entries = "", _entries(code_dir)
    for _ in range(_MAX_DEPTH):
        if len(entries) != 1 or not entries[0].endswith("/"):
            break
        folder += entries[0]
        entries = _entries(os.path.join(code_dir, folder))
    found = _found(name, entries)
    if folder and found:
        where = f"the folder {cut(folder, _MAX_PATH)}, which has {found}"
        return f"All files are in {where}: zip what is in the folder, not the folder itself."
    for inner in [entry for entry in entries if entry.endswith("/")][:_MAX_NAMES]:
        found = _found(name, _entries(os.path.join(code_dir, folder, inner)))
        if found:
            return f"The folder {cut(folder + inner, _MAX_PATH)} has {found}."
    return ""


def _found(name: str, entries: list[str]) -> str | None:
    return next((entry for entry in (f"{name}.py", f"{name}/") if entry in entries), None)


def _no_function(module: ModuleType, module_name: str, function_name: str, code_dir: str) -> str:
    path = os.path.join(code_dir, module_name.replace(".", "/"))
    file = getattr(module, "__file__", None)
    if _isdir(path) and any(_exists(os.path.join(path, function_name))):
        return _is_module(module_name, function_name)
    if file is None and _isdir(path):
        folder = module_name.replace(".", "/")
        said = f"{module_name!r} is a folder without a file __init__.py, and so has no function {function_name!r}"
        return f"{said}; in {folder}/ are: {_listed(_entries(path))}. The entry must be module.function."
    if type(file) is not str or not file.startswith(code_dir + "/"):
        taken = f"{module_name!r} is a module of the standard library"
        if any(_exists(path)):
            return f"{taken}, which is imported instead of the package's module: rename {module_name}.py."
        top = f"at the package's top level are: {_listed(_entries(code_dir))}"
        return f"{taken}, and has no function {function_name!r}; {top}."
    functions = _functions(module)
    has = f"its functions are: {_listed(functions)}" if functions else "it has no functions of its own"
    return f"Module {module_name!r} has no function {function_name!r}; {has}."


def _is_module(module_name: str, function_name: str) -> str:
    name = f"{module_name}.{function_name}"
    return f"{name!r} is a module, not a function: write the function's name too, such as {name}.main."


def _functions(module: ModuleType) -> list[str]:
    """The names of the functions that the module defines."""
    if type(module) is not ModuleType:
        return []
    return [
        name
        for name, value in module.__dict__.items()
        if type(name) is str and type(value) is FunctionType and value.__module__ == module.__name__
    ]


def _exists(path: str) -> Iterable[bool]:
    yield _isfile(f"{path}.py")
    yield _isdir(path)


def _entries(folder: str) -> list[str]:
    """The names in a folder; a subfolder's name ends with a slash."""
    found = []
    try:
        with scandir(folder) as entries:
            for entry in entries:
                if entry.name not in _HIDDEN and not entry.name.startswith("."):
                    found.append(entry.name + "/" * entry.is_dir())
                if len(found) >= _MAX_ENTRIES:
                    break
    except OSError:
        return []
    return found


def _listed(names: list[str]) -> str:
    shown = [cut(name, _MAX_NAME) for name in sorted(names)[:_MAX_NAMES]]
    if len(names) > _MAX_NAMES:
        shown.append(f"and {'at least ' * (len(names) >= _MAX_ENTRIES)}{len(names) - _MAX_NAMES} more")
    return ", ".join(shown) or "no files"
