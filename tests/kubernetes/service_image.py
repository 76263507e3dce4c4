"""Builds the image of the service from its Dockerfile, and gives it to the node of a throw-away cluster.

The base image is made of Debian's packages and of pip's wheel, because there is no registry to take it from.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.kubernetes.clusters import CACHE, ROOT, build_image, is_built, locked_cache, podman, run, save_image

SERVICE_IMAGE = "localhost/qinling-falcon:1"
_FILE = CACHE / "service.tar"
_BASE = "localhost/python-pip:3.11"
_PIP_CONFIG = "[global]\nno-index = true\nfind-links = /wheels\n"
# Before Python 3.11.3, which Debian's is, the package `redis` needs one that the lock file does not have.
_MORE_PACKAGES = ("pip", "async-timeout")


def import_service_image() -> None:
    """Build the image if its sources have changed, and import it into the node of the cluster of this run."""
    # Pip needs the network of the machine, which the tests are not in.
    run(["nsenter", "-t", os.environ["KUBERNETES_OUTER_PID"], "-n", "--", sys.executable, "-m", __name__])
    socket = Path(os.environ["KUBERNETES_OUTER_CONFIG"]).parent / "node" / "run" / "containerd.sock"
    run(["ctr", "-a", socket, "-n", "k8s.io", "images", "import", _FILE])


def main() -> None:
    """Build the image if its sources have changed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "Dockerfile", "requirements.lock", "app.py", "config",
         "workers", "runtimes", "qinling_falcon"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    sources = [ROOT / name for name in sorted(listed.stdout.splitlines())]
    with locked_cache():
        if is_built("service", sources):
            return
        lock = ROOT / "requirements.lock"
        packages = ["-r", lock, *_MORE_PACKAGES]
        wheels = CACHE / f"wheels-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
        run([sys.executable, "-m", "pip", "wheel", "-q", "-w", wheels, *packages])
        _build_base(wheels)
        config = CACHE / "pip.conf"
        config.write_text(_PIP_CONFIG)
        mounts = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{config}:/etc/pip.conf:ro"]
        build_image(ROOT, SERVICE_IMAGE, "--build-arg", f"BASE={_BASE}", *mounts)
        save_image("service", SERVICE_IMAGE, sources)


def _build_base(wheels: Path) -> None:
    """Add pip and the library of C++ to the image of Python."""
    podman("load", "-q", "-i", CACHE / "python.tar")
    with tempfile.TemporaryDirectory(prefix="qf-base-") as made:
        folder = Path(made)
        subprocess.run(["apt-get", "download", "-q", "libstdc++6"], cwd=folder, check=True, capture_output=True)
        [package] = folder.glob("*.deb")
        run(["dpkg-deb", "-x", package, folder / "system"])
        [wheel] = wheels.glob("pip-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "system" / "usr" / "lib" / "python3" / "dist-packages")
        (folder / "Dockerfile").write_text("FROM localhost/python:3.11\nCOPY system/usr /usr\n")
        build_image(folder, _BASE)


if __name__ == "__main__":
    main()
