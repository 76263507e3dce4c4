"""Functions find the builtins that every Python has."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker


@pytest.mark.parametrize("name", ["exit", "quit"])
def test_exit_raises_and_leaves_standard_input_open(worker: Worker, name: str) -> None:
    worker.load(f"import sys\ndef main(code=None):\n    seen = sys.stdin.read()\n    {name}(code)\n")
    for given in ("enough", "again"):
        answer = worker.execute(given)
        assert (answer.reason, answer.output) == ("exception", given)
        assert answer.message == f"The function raised SystemExit: {given} (main.py, line 4)."
    assert worker.execute().message == "The function raised SystemExit: None (main.py, line 4)."


def test_the_other_builtins_of_site_are_there(worker: Worker) -> None:
    worker.load(
        "def main():\n    help(abs)\n    print(copyright)\n    print(credits)\n    print(license)\n"
        "    return [repr(exit), repr(quit), repr(help)]\n"
    )
    answer = worker.execute()
    assert answer.output == [
        "Use exit() or Ctrl-D (i.e. EOF) to exit",
        "Use quit() or Ctrl-D (i.e. EOF) to exit",
        "Type help() for interactive help, or help(object) for help about object.",
    ]
    for said in ("Return the absolute value", "Copyright (c)", "people who made Python", "license.html"):
        assert said in answer.printed


def test_a_package_may_have_modules_with_these_names(worker: Worker) -> None:
    names = ("pty", "tty", "printing", "interpreter", "signatures", "event_loop", "asyncio")
    files = {f"{name}.py": f"NAME = {name!r}\n" for name in names}
    code = f"import {', '.join(names)}\ndef main(): return [module.NAME for module in ({', '.join(names)})]\n"
    worker.load({"main.py": code, **files})
    assert worker.execute().output == list(names)
