"""`SECRET_KEYS` and the processes: made by `make run`, checked at the start, replaced by a command."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qinling_falcon.models import database
from qinling_falcon.models.migrate import migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings, is_fernet_key
from tests.integration.service import ROOT, free_port
from tests.models.factories import make_function, make_runtime
from tests.support.secrets import SECRET, fernet_key
from workers.run.errors import StartError
from workers.run.secret_key import keep_secret_key

OLD, NEW = fernet_key(1), fernet_key(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VAR_DIR whose database has a secret, encrypted with OLD."""
    settings = Settings(var_dir=tmp_path, secret_keys=OLD)
    migrate(settings)
    database.connect(settings)
    owner = Context("default")
    make_function(owner, make_runtime(owner).id, callback_secret=SECRET)
    database.disconnect()
    return tmp_path


def run(folder: Path, *command: str, keys: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"VAR_DIR": str(folder), "SECRET_KEYS": keys, "DATABASE_URL": "", "PORT": str(free_port())}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )


def test_a_key_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    key = keep_secret_key(tmp_path)

    assert is_fernet_key(key)
    assert keep_secret_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


def test_a_draft_of_an_interrupted_start_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret.key.new").write_text("half a k")

    assert is_fernet_key(keep_secret_key(tmp_path))


@pytest.mark.parametrize("content", [b"", b"half a key", b"\xff" * 44])
def test_a_broken_key_stops_the_start_and_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret.key").write_bytes(content)

    with pytest.raises(StartError, match=r"secret\.key .*SECRET_KEYS"):
        keep_secret_key(tmp_path)

    assert (tmp_path / "secret.key").read_bytes() == content


@pytest.mark.parametrize("keys", ["", NEW])
@pytest.mark.parametrize(
    "command",
    [
        ["workers.release"],
        ["gunicorn", "-c", "config/gunicorn.conf.py", "--no-control-socket", "app:application"],
    ],
    ids=["release", "web"],
)
def test_a_process_without_the_key_of_a_stored_secret_does_not_start(
    folder: Path, command: list[str], keys: str
) -> None:
    ended = run(folder, *command, keys=keys)

    assert ended.returncode != 0
    assert "SECRET_KEYS: the database holds secrets that none of these keys can read" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_malformed_key_stops_the_start(folder: Path) -> None:
    ended = run(folder, "workers.release", keys=f"{OLD},{OLD[:-1]}")

    assert ended.returncode != 0
    assert ended.stderr.startswith("SECRET_KEYS: key 2 is not a Fernet key")
    assert OLD[:-1] not in ended.stderr


def test_a_command_replaces_the_key(folder: Path) -> None:
    replaced = run(folder, "workers.reencrypt", keys=f"{NEW},{OLD}")
    again = run(folder, "workers.reencrypt", keys=f"{NEW},{OLD}")

    assert (replaced.returncode, replaced.stdout) == (0, "secrets encrypted with the first key: 1\n")
    assert (again.returncode, again.stdout) == (0, "secrets encrypted with the first key: 0\n")
    assert run(folder, "workers.release", keys=NEW).returncode == 0


def test_a_command_without_the_key_of_a_secret_fails(folder: Path) -> None:
    ended = run(folder, "workers.reencrypt", keys=NEW)

    assert ended.returncode == 1
    assert ended.stderr == "secrets that no key of SECRET_KEYS can read: 1\n"
