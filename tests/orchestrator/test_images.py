"""The table of local runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.base import UnknownImage
from qinling_falcon.orchestrators.process.images import RuntimeTable
from qinling_falcon.orchestrators.runtime_table import registered
from qinling_falcon.settings import Settings, SettingsError

from .conftest import REPOSITORY

SHIPPED = REPOSITORY / "config" / "runtimes.toml"


def write(tmp_path: Path, python: str) -> RuntimeTable:
    (tmp_path / "program.py").touch()
    path = tmp_path / "runtimes.toml"
    path.write_text(f'[runtimes.x]\nimages = ["x", "y/x:1"]\nprogram = "program.py"\npython = "{python}"\n')
    return RuntimeTable(path)


@pytest.mark.parametrize(
    "image",
    ["python3", "python3:3.11", "openstackqinling/python3-runtime", "openstackqinling/python3-runtime:0.0.2",
     "openstackqinling/python3-runtime@sha256:00"],
)  # fmt: skip
def test_shipped_images(image: str) -> None:
    found = RuntimeTable(SHIPPED).resolve(image)
    assert found.program == REPOSITORY / "runtimes" / "python3" / "worker.py"
    assert found.interpreter.version == sys.version_info[:2]
    assert found.interpreter.prefix == Path(sys.base_prefix).resolve()


def test_runtimes_to_register() -> None:
    assert registered(Settings(runtimes_file=SHIPPED)) == [("python3", "python3")]


@pytest.mark.parametrize("image", ["", "python", "python3/x", "registry:5000/python3", "x:2"])
def test_unknown_image(tmp_path: Path, image: str) -> None:
    with pytest.raises(UnknownImage, match="python3, openstackqinling/python3-runtime"):
        RuntimeTable(SHIPPED).resolve(image)


def test_a_tag_that_the_table_names_counts(tmp_path: Path) -> None:
    table = write(tmp_path, sys.executable)
    table.resolve("y/x:1")
    with pytest.raises(UnknownImage):
        table.resolve("y/x:2")


def test_a_given_interpreter(tmp_path: Path) -> None:
    assert write(tmp_path, sys.executable).resolve("x").interpreter.program == Path(sys.executable).resolve()


def test_missing_interpreter(tmp_path: Path) -> None:
    with pytest.raises(UnknownImage, match=r"interpreter /nowhere/python3 is missing"):
        write(tmp_path, "/nowhere/python3").resolve("x")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('["/p/bin/python", "/p", [3, 7], false]', "is Python 3.7, 3.8 or later is needed"),
        ("nonsense", "does not work"),
    ],
)
def test_unusable_interpreter(tmp_path: Path, answer: str, reason: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{answer}'\n")
    python.chmod(0o755)
    with pytest.raises(UnknownImage, match=reason):
        write(tmp_path, str(python)).resolve("x")


def test_missing_program(tmp_path: Path) -> None:
    table = write(tmp_path, sys.executable)
    (tmp_path / "program.py").unlink()
    with pytest.raises(UnknownImage, match=r"its program .*program\.py is missing"):
        table.resolve("x")


@pytest.mark.parametrize(
    "text",
    ["not toml", "", "[runtimes.x]\nimages = []\nprogram = 'p'", "[runtimes.x]\nimages = ['x']",
     "[runtimes.x]\nimages = ['x']\nprogram = 'p'\npython = 'python3'", "[runtimes.x]\nimages = ['x']\nprogram = 1",
     "[runtimes.x]\nimages = ['x']\nprogram = 'p'\nimage = 'x'"],
)  # fmt: skip
def test_a_wrong_table_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runtimes.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="RUNTIMES_FILE="):
        RuntimeTable(path)


def test_a_missing_table_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a readable file"):
        RuntimeTable(tmp_path / "none.toml")
