"""Makes images of runtimes from folders like runtimes/python3, and gives them to the node of a throw-away cluster."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kubernetes.clusters import CACHE, build_image, is_built, locked_cache, podman, run, save_image


def import_runtime_image(name: str, folder: Path) -> None:
    """Build `localhost/NAME:1` from a folder, if it has changed, and import it into the node."""
    sources = sorted(path for path in folder.rglob("*") if path.suffix in ("", ".py"))
    with locked_cache():
        if not is_built(name, sources):
            podman("load", "-q", "-i", CACHE / "python.tar")
            build_image(folder, f"localhost/{name}:1", "--build-arg", "BASE=localhost/python:3.11")
            save_image(name, f"localhost/{name}:1", sources)
        socket = Path(os.environ["KUBERNETES_OUTER_CONFIG"]).parent / "node" / "run" / "containerd.sock"
        run(["ctr", "-a", socket, "-n", "k8s.io", "images", "import", CACHE / f"{name}.tar"])
