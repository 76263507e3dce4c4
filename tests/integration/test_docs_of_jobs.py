"""docs/jobs.md, as a reader would try it: all of its `sh` blocks, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import ROOT, Service, running_service

pytestmark = pytest.mark.xdist_group("integration-jobs")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(with_workers=True, max_workers=6, worker_idle_s=600) as running:
        running.runtime()
        running.start_scheduler()
        yield running


def test_its_commands_lead_to_a_nightly_job(service: Service, tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / "docs" / "jobs.md").read_text())
    script = "set -euo pipefail\n" + "\n".join(blocks).replace("http://127.0.0.1:7070", service.url)
    assert "7070" not in script

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Cleaned /reports" in done.stdout
    assert '"timezone":"Europe/Berlin"' in done.stdout
    assert re.findall(r"(\w+)\n", done.stdout) == ["paused", "running", "running", "cancelled"]
    assert '"source":"job"' in done.stdout
    assert service.request("GET", "/v1/jobs").json() == []
    inputs = [row["input"] for row in service.request("GET", "/v1/executions?source=job").json()]
    assert inputs.count('{"folder": "/reports"}') == 1
