"""Starts throw-away clusters of a real Kubernetes, with the tools beside this project's folder, and images for them.

The servers are built once, from Debian's source package; that takes three minutes and needs root and Debian. `why_not`
says what this machine lacks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("KUBERNETES_TOOLS", ROOT.parent / "shared" / "tools" / "kubernetes"))
# Kept between runs: the servers and images.
CACHE = Path(os.environ.get("KUBERNETES_CACHE", "/var/tmp/qinling-falcon-kubernetes"))
# The commands that are needed with their Debian packages, and packages without a command.
_COMMANDS = {
    "go": "golang-go", "dpkg-source": "dpkg-dev", "etcd": "etcd-server", "openssl": "openssl",
    "containerd": "containerd", "runc": "runc", "iptables": "iptables", "conntrack": "conntrack", "gcc": "gcc",
    "podman": "podman",
}  # fmt: skip
_LIBRARIES = ("golang-github-modern-go-reflect2-dev", "containernetworking-plugins", "libc6-dev")
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
WORKER_IMAGE = "localhost/qinling-python3:1"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: its state.
        kubeconfig: for use on this machine.
        holder: the pid of a process in the node's namespaces; None: there is no node.
    """

    folder: Path
    kubeconfig: Path
    holder: int | None

    def enter(self) -> list[str]:
        """The start of a command that runs in the node's network, where pods have addresses."""
        return [] if self.holder is None else ["nsenter", "-t", str(self.holder), "-n", "--"]

    def inner_kubeconfig(self) -> Path:
        """A kubeconfig for use in the node's network."""
        config = json.loads(self.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:6443"
        path = self.folder / "inner.kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path


def why_not() -> str | None:
    """Why no cluster can be started here; None: one can."""
    if not (TOOLS / "kubeup.py").exists():
        return f"there is no {TOOLS} (KUBERNETES_TOOLS)"
    if os.geteuid() != 0:
        return "a node needs root"
    if shutil.which("apt-get") is None:
        return "the servers are built from Debian's source package, and this is not Debian"
    return None


def prepare() -> Path:
    """Build what is missing: the servers and the images. Returns the folder that has them."""
    with locked_cache():
        _install()
        binaries = CACHE / "bin"
        if not (binaries / "kube-proxy").exists():
            environ = os.environ | {"KUBE_SRC": str(CACHE / "src"), "KUBE_BIN": str(binaries)}
            run([TOOLS / "build.sh"], env=environ)
        for name in ("pause", "python"):
            if not (CACHE / f"{name}.tar").exists():
                run([TOOLS / "mkimage.py", name, CACHE / f"{name}.tar"])
        _build_worker_image()
    return CACHE


@contextlib.contextmanager
def locked_cache() -> Iterator[None]:
    """Keep other runs of tests from changing what is kept between runs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def running_cluster(level: str) -> Iterator[Cluster]:
    """Start a cluster, and end it afterwards.

    Args:
        level: `api`, `control` or `node`, as of `kubeup.py`.
    """
    cache = prepare()
    images = [word for name in ("pause", "python", "worker") for word in ("--image", str(cache / f"{name}.tar"))]
    folder = Path(tempfile.mkdtemp(prefix="qf-kubernetes-"))
    command = [TOOLS / "kubeup.py", "up", folder, "--level", level, "--bin", cache / "bin"]
    try:
        run([*command, *(images if level == "node" else [])])
        state = json.loads((folder / "state.json").read_text())
        holder = int(state["holder"]) if state.get("holder") else None
        yield Cluster(folder, folder / "kubeconfig", holder)
    finally:
        subprocess.run([sys.executable, TOOLS / "kubeup.py", "down", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _install() -> None:
    # A package may be unpacked without its commands, if an installation broke off.
    missing = [package for command, package in _COMMANDS.items() if shutil.which(command) is None]
    missing += [name for name in _LIBRARIES if subprocess.run(["dpkg", "-s", name], capture_output=True).returncode]
    if missing:
        environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=environ)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=environ)


def _build_worker_image() -> None:
    """Build runtimes/python3/Dockerfile, if its sources have changed."""
    sources = sorted(path for path in (ROOT / "runtimes" / "python3").rglob("*") if path.suffix in ("", ".py"))
    if is_built("worker", sources):
        return
    podman("load", "-q", "-i", CACHE / "python.tar")
    build_image(ROOT / "runtimes" / "python3", WORKER_IMAGE, "--build-arg", "BASE=localhost/python:3.11")
    save_image("worker", WORKER_IMAGE, sources)


def is_built(name: str, sources: Sequence[Path]) -> bool:
    """Whether the file of an image was made from these sources."""
    stamp = CACHE / f"{name}.sha256"
    return stamp.exists() and stamp.read_text() == _digest(sources) and (CACHE / f"{name}.tar").exists()


def build_image(folder: Path, image: str, *options: object) -> None:
    """Build the Dockerfile of a folder."""
    podman("build", "-q", "--isolation", "chroot", "--network", "host", *options, "-t", image, folder)


def save_image(name: str, image: str, sources: Sequence[Path]) -> None:
    """Write the file of an image."""
    path = CACHE / f"{name}.tar"
    path.unlink(missing_ok=True)
    podman("save", "-q", "--format", "oci-archive", "-o", path, image)
    (CACHE / f"{name}.sha256").write_text(_digest(sources))


def podman(command: str, *words: object) -> None:
    """Run a command of podman, with images of its own."""
    policy = CACHE / "policy.json"
    policy.write_text(_POLICY)
    places = ["--root", CACHE / "podman", "--runroot", CACHE / "podman-run", "--cgroup-manager=cgroupfs"]
    run(["podman", *places, command, "--signature-policy", policy, *words])


def run(command: Sequence[object], env: dict[str, str] | None = None) -> None:
    """Run a command. An error has the end of what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _digest(sources: Sequence[Path]) -> str:
    texts = [path.read_bytes() for path in sources if path.is_file()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()
