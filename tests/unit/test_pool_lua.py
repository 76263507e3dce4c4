"""The library that is made of the scripts and of the parts that they share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qinling_falcon.pool import lua

SCRIPTS = Path(lua.__file__).parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.lua"))
PARTS = sorted(path.stem for path in SCRIPTS.glob("parts/*.lua"))


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/base.lua").write_text("-- base\n")
    monkeypatch.setattr(lua, "_FOLDER", tmp_path)
    lua.library.cache_clear()
    yield tmp_path
    lua.library.cache_clear()


def test_each_part_stands_once_after_those_that_it_includes_and_before_the_scripts(scripts: Path) -> None:
    for name, includes in (("a", "-- include: b c\n"), ("b", "-- include: c\n"), ("c", "")):
        (scripts / f"parts/{name}.lua").write_text(f"{includes}local {name}\n")
    (scripts / "script.lua").write_text("return 1\n")
    assert re.findall(r"^(?:local [a-z]|return|-- base).*$", lua.library().text, re.MULTILINE) == [
        "-- base", "local c", "local b", "local a", "return 1",
    ]  # fmt: skip


def test_each_script_is_the_body_of_a_function(scripts: Path) -> None:
    (scripts / "script.lua").write_text("-- writes  key\nreturn now\n")
    body = "-- base\n\nregister('script', 'allow-oom', function(ARGV)\n-- writes  key\nreturn now\nend)\n"
    assert lua.library().text.endswith(body)


def test_a_script_whose_header_names_no_writes_is_registered_as_one_that_only_reads(scripts: Path) -> None:
    (scripts / "script.lua").write_text("-- reads   key\nreturn now\n")
    assert "register('script', 'no-writes', function" in lua.library().text


@pytest.mark.parametrize("changed", ["script.lua", "parts/base.lua"])
def test_library_and_functions_are_named_by_the_text_of_all_scripts_and_parts(scripts: Path, changed: str) -> None:
    (scripts / "script.lua").write_text("return now\n")
    before = lua.library()
    assert lua.OF_ANY_RELEASE.fullmatch(before.name)
    assert before.text.startswith(f"#!lua name={before.name}\n")
    lua.library.cache_clear()
    (scripts / changed).write_text("-- another text\n")
    after = lua.library()
    assert before.name != after.name
    assert (before.functions, after.functions) == (
        {"script": f"{before.name}_script"}, {"script": f"{after.name}_script"},
    )  # fmt: skip


def test_every_script_has_a_function() -> None:
    assert list(lua.library().functions) == NAMES


def test_python_and_lua_begin_keys_alike() -> None:
    assert f"local P = '{lua.ANCHOR}:'" in (SCRIPTS / "parts/base.lua").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_script_begins_with_its_name_and_what_it_does(name: str) -> None:
    assert re.match(rf"-- {name}: \S", (SCRIPTS / f"{name}.lua").read_text())


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.lua")), ids=lambda path: path.stem)
def test_no_line_is_longer_than_120_characters(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", PARTS)
def test_a_part_stands_after_every_part_whose_functions_and_constants_it_uses(name: str) -> None:
    """Lua finds a missing local only when it runs the line."""
    text = (SCRIPTS / f"parts/{name}.lua").read_text()
    before = lua.library().text.partition(text)[0]
    defined = {word for part in PARTS for word in _defined((SCRIPTS / f"parts/{part}.lua").read_text())}
    words = set(re.findall(r"\b\w+\b", re.sub(r"--.*|'[^']*'|\.\w+|\w+ =", "", text)))
    assert words & defined <= _defined(before) | _defined(text) | set(re.findall(r"\blocal (\w+)", text))


def test_no_two_parts_define_the_same_name() -> None:
    """The second one would hide the first one from the scripts."""
    names = [word for part in PARTS for word in _defined((SCRIPTS / f"parts/{part}.lua").read_text())]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", [part for part in PARTS if part != "base"])
def test_what_a_part_keeps_between_runs_are_functions_and_constants(name: str) -> None:
    for line in re.sub(r"\s*--.*", "", (SCRIPTS / f"parts/{name}.lua").read_text()).splitlines():
        assert re.match(r"$|\s|end$|local function |local [A-Z_, ]+ = ", line), line
        if re.match(r"local (?!function )", line):
            assert not re.search(r"\b(now|call)\b", line), line


def _defined(text: str) -> set[str]:
    """The names of the local variables of the whole text."""
    functions = re.findall(r"^local function (\w+)", text, re.MULTILINE)
    variables = re.findall(r"^local (?!function )([\w, ]+)", text, re.MULTILINE)
    return {*functions, *(name.strip() for names in variables for name in names.split(","))}
