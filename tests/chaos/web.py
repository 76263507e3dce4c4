"""Gunicorn for `AUTH_MODE=noauth`, with callers of several projects: `python -m tests.chaos.web`.

A caller names its project in a header. Without the header, it is the admin of project `default`, as always.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from gunicorn.app.wsgiapp import run

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.noauth import EVERYBODY, NoAuth
from qinling_falcon.models.scope import Context

HEADER = "X-Chaos-Project"
_KEY = f"HTTP_{HEADER.replace('-', '_').upper()}"


def _authenticate(self: NoAuth, environ: Mapping[str, Any]) -> Identity:
    project = environ.get(_KEY)
    return EVERYBODY if project is None else Identity(Context(project_id=project))


if __name__ == "__main__":
    NoAuth.authenticate = _authenticate
    sys.exit(run())
