"""The key that `make run` keeps in `VAR_DIR`, for the secrets in the database."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from qinling_falcon.settings import is_fernet_key
from workers.run.errors import StartError

_NAME = "secret.key"


def keep_secret_key(var_dir: Path) -> str:
    """The Fernet key in `VAR_DIR/secret.key`. A missing file is made, with mode 0600.

    The file is on disk before the key is used, because secrets that were encrypted with a lost key can't be read.

    Args:
        var_dir: a folder that no other process manager uses.

    Raises:
        StartError: the file can't be read or made, or has no key.
    """
    path = var_dir / _NAME
    try:
        try:
            key = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            key = _make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path} can't be used as the key of SECRET_KEYS: {error}") from error
    if not is_fernet_key(key):
        raise StartError(f"{path} has no key for SECRET_KEYS: restore it, or delete it if no secrets are stored")
    return key


def _make(path: Path) -> str:
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    draft = path.with_name(f"{_NAME}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - with a descriptor
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return key
