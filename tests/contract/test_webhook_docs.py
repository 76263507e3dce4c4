"""docs/webhooks.md as a reader would try it: all of its `sh` blocks, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.contract.service import User
from tests.integration.service import ROOT, wait_until

pytestmark = pytest.mark.xdist_group("contract")


def blocks() -> list[str]:
    return re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", (ROOT / "docs" / "webhooks.md").read_text())


def test_the_commands_of_the_page_lead_to_a_called_function(user: User, tmp_path: Path) -> None:
    upload, make, deliver, look, rotate = blocks()
    logged = "until curl -sS $URL/v1/webhooks/$WEBHOOK/deliveries | grep -q accepted; do sleep 0.1; done"
    steps = ["set -euo pipefail", upload, make, deliver, logged, look, rotate, deliver, "echo; echo $WEBHOOK"]
    script = "\n".join(steps).replace("http://127.0.0.1:7070", user.url)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert "HTTP/1.1 202 Accepted" in ran.stdout
    assert '"result":"accepted"' in ran.stdout
    webhook_id = ran.stdout.split()[-1]

    def executions() -> list[dict[str, str]]:
        return list(user.get("/v1/executions", params={"webhook_id": webhook_id, "status": "success"}).json())

    wait_until("the function has run", executions)
    [execution] = executions()
    assert '"output": "ada/engine refs/heads/main"' in execution["result"]
    assert "401 Unauthorized" in ran.stdout, "the old secret is not valid any more"
