"""What a newcomer needs once the service is up: a function to upload, and the calls to try."""

from __future__ import annotations

import os
import shlex
import zipfile
from pathlib import Path

_HELLO = '''\
"""The function that `make run` offers to try."""


def main(name="World", **kwargs):
    print(f"Greeting {name}")
    return f"Hello, {name}!"
'''


def make_hello(var_dir: Path) -> Path:
    """Write `hello.zip`, a package with one function, into `var_dir`."""
    path = var_dir / "hello.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("main.py", date_time=(2026, 1, 1, 0, 0, 0)), _HELLO)
    return path


def welcome(
    url: str, runtime_id: str | None, package: Path, log_dir: Path, grace_s: float, *, tokens: bool
) -> str:
    """The text that ends the start: base URL, and calls that work as printed in a shell in this folder.

    Args:
        url: of the service.
        runtime_id: one that works; None: the reader has to name one.
        package: what `make_hello` made.
        log_dir: where the logs are.
        grace_s: time that running calls get at a stop.
        tokens: whether callers need a token of Keystone's.
    """
    form = f"package=@{_for_curl(_short(package))}"
    curl = 'curl -sS -H "X-Auth-Token: $TOKEN"' if tokens else "curl -sS"
    before = [""]
    if tokens:
        before = ["With a token of yours (OS_* says who you are); docs/openstack.md has more of that.", ""]
        before += ["  TOKEN=$(openstack token issue -f value -c id)", ""]
    if runtime_id is None:
        before += [f"  RUNTIME=ID   # of a runtime that this lists: {curl} {url}/v1/runtimes", ""]
    return "\n".join(
        [
            f"Qinling-Falcon is ready at {url}",
            f"Logs are in {_short(log_dir)}. Ctrl-C stops it: running calls get up to {grace_s:g} s to end.",
            "",
            "To try it, in another shell in this folder: create a function, call it, list its calls.",
            *before,
            f"  FUNCTION=$({curl} {url}/v1/functions -F name=hello -F runtime_id={runtime_id or '$RUNTIME'} \\",
            f"""    -F 'code={{"source": "package"}}' -F {shlex.quote(form)} | {_member("id")})""",
            "",
            f"  {curl} {url}/v1/executions -H 'Content-Type: application/json' \\",
            """    -d '{"function_id": "'$FUNCTION'", "input": {"name": "Ada"}}'""",
            "",
            f'  {curl} "{url}/v1/executions?function_id=$FUNCTION"',
            "",
        ]
    )


def _member(name: str) -> str:
    """A filter that takes one text member out of a JSON object; every Debian has it."""
    return f"""sed -E 's/.*"{name}": *"([^"]+)".*/\\1/'"""


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _for_curl(path: str) -> str:
    """A file name in the value of curl's `-F`, where `,` and `;` have a meaning."""
    if not set(path) & set(',;"\\'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
