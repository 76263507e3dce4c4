"""A worker does not share the session keyring of the user who started the service."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from runtimes.python3.qinling_worker.syscalls import NUMBERS
from tests.runtime.client import PROGRAM

FIND = """
import errno, sys
sys.path.insert(0, sys.argv[1])
from qinling_worker import keyrings
from qinling_worker.linux import system_call
ADD_KEY, KEYCTL = int(sys.argv[2]), int(sys.argv[3])
SESSION, JOIN, SEARCH = -3, 1, 10

def found():
    try:
        system_call(KEYCTL, SEARCH, SESSION, b"user", b"qf-note", 0)
        return True
    except OSError as error:
        assert error.errno == errno.ENOKEY, error
        return False

try:
    system_call(KEYCTL, JOIN, None)  # so that the test leaves nothing in the keyring of the user who runs it
except OSError as error:
    sys.exit(f"skip: {error}")
system_call(ADD_KEY, b"user", b"qf-note", b"note", 4, SESSION)
before = found()
keyrings.join_new_session()
print(before, found())
"""


@pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="system calls of another architecture")
def test_a_new_session_keyring_is_empty() -> None:
    numbers = NUMBERS[os.uname().machine]
    words = [sys.executable, "-I", "-S", "-c", FIND, str(PROGRAM.parent)]
    words += [str(numbers["add_key"]), str(numbers["keyctl"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.stderr.startswith("skip: "):
        pytest.skip(done.stderr)
    assert (done.stdout, done.stderr) == ("True False\n", "")
