"""No call of the library and no command is forgotten here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.driver import Driver

pytestmark = pytest.mark.xdist_group("client")


def test_every_method_and_every_command_is_in_a_test(driver: Driver) -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    words = re.sub(r'"\s*,\s*"', " ", tests)  # of commands, which are written word by word
    there = driver.ask({"inventory": True})

    assert len(there["methods"]) > 40
    assert len(there["commands"]) == 40
    assert [name for name in there["methods"] if not re.search(rf"client\.{re.escape(name)}\b", tests)] == []
    assert [command for command in there["commands"] if not re.search(rf'[ "]{command}[ "]', words)] == []
