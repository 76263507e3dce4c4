"""Scripts and the parts that they include."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qinling_falcon.pool import lua

SCRIPTS = Path(lua.__file__).parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.lua"))


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/base.lua").write_text("-- base\n")
    monkeypatch.setattr(lua, "_FOLDER", tmp_path)
    lua.load.cache_clear()
    yield tmp_path
    lua.load.cache_clear()


def test_each_part_stands_once_after_those_that_it_includes(scripts: Path) -> None:
    for name, includes in (("a", ""), ("b", "-- include: a\n"), ("c", "-- include: b a\n")):
        (scripts / f"parts/{name}.lua").write_text(f"{includes}local {name}\n")
    (scripts / "script.lua").write_text("-- include: c b\nreturn 1\n")
    source = lua.load("script").source
    assert re.findall(r"^(?:local|return|-- base).*$", source, re.MULTILINE) == [
        "-- base", "local a", "local b", "local c", "return 1",
    ]  # fmt: skip


def test_a_script_without_parts_has_the_base(scripts: Path) -> None:
    (scripts / "script.lua").write_text("return now\n")
    assert lua.load("script").source == "-- base\n\nreturn now\n"


def test_a_script_is_known_by_the_hash_of_its_text_and_its_parts(scripts: Path) -> None:
    (scripts / "script.lua").write_text("return now\n")
    before = lua.load("script").sha
    lua.load.cache_clear()
    (scripts / "parts/base.lua").write_text("-- another base\n")
    assert lua.load("script").sha != before


def test_all_scripts_are_loaded() -> None:
    assert [script.name for script in lua.all_scripts()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_begins_with_its_name_and_what_it_does(name: str) -> None:
    assert re.match(rf"-- {name}: \S", (SCRIPTS / f"{name}.lua").read_text())


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.lua")), ids=lambda path: path.stem)
def test_no_line_is_longer_than_120_characters(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_script_includes_every_part_whose_functions_it_uses(name: str) -> None:
    """Lua finds a missing local only when it runs the line."""
    source = lua.load(name).source
    defined = {word for path in SCRIPTS.glob("parts/*.lua") for word in _functions(path.read_text())}
    words = set(re.findall(r"\b(\w+)\(", re.sub(r"--.*|'[^']*'", "", source)))
    assert words & defined <= _functions(source)


def _functions(text: str) -> set[str]:
    return set(re.findall(r"^local function (\w+)", text, re.MULTILINE))
