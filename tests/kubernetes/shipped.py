"""The manifests of config/kubernetes, as `kubectl kustomize` makes them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.access import MANIFESTS

# The cluster of the tests is older than these versions. The ones that it has instead have the same fields.
OLDER_VERSIONS = {"autoscaling/v2": "autoscaling/v2beta2", "policy/v1": "policy/v1beta1"}


@functools.cache
def why_not() -> str | None:
    """Why the manifests can't be made here; None: they can."""
    if shutil.which("kubectl") is None:
        return "there is no kubectl"
    told = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    minor = json.loads(told.stdout)["clientVersion"]["minor"]
    # Debian's is older, and does not know the components of Kustomize.
    return None if int(minor.rstrip("+")) >= 21 else f"kubectl 1.{minor} is too old: expected 1.21 or later"


def build(overlay: str, components: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All objects of an overlay with components."""
    with tempfile.TemporaryDirectory(prefix="qf-overlay-") as folder:

        def place(*names: str) -> str:
            return os.path.relpath(MANIFESTS.joinpath(*names), Path(folder).resolve())

        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [place("overlays", overlay)],
            "components": [place("components", component) for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def of_kind(objects: Sequence[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of one kind, by their names."""
    return {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == kind}
