"""Entry point of a worker in a pod: makes the listening socket and the configuration, and becomes the worker.

Its environment, from the pod's manifest: `WORKER_KEY` (the runtime's key), `POD_UID`, and `WORKER_CONFIG` (JSON, the
configuration without its secret). The worker's secret is derived from the first two. The worker is executed without an
environment, so that a function can't find the key.

The worker also gets descriptors of two files of the container's control group: the number of its threads, and the
number of kills for lack of memory.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import sys

_PORT = 9090
_BACKLOG = 128
# Of the container's control group: version 2, version 1.
_OOM_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_THREADS = ("/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current")


def main() -> None:
    """Become the worker."""
    key, uid = os.environb[b"WORKER_KEY"], os.environb[b"POD_UID"]
    config = json.loads(os.environ["WORKER_CONFIG"])
    config["secret"] = hmac.new(key, uid, "sha256").hexdigest()
    config["is_init"] = os.getpid() == 1  # not if the containers of the pod share their processes
    listener = _listen()
    events, threads = _open_first(_OOM_KILLS), _open_first(_THREADS)
    config["memory_fds"] = {} if events is None else {"events": events}
    config["threads_fd"] = threads
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # nothing reads from the pipe yet
    data = json.dumps(config).encode()
    if os.write(writer, data) != len(data):
        sys.exit(f"WORKER_CONFIG is too large for a pipe: {len(data)} bytes")
    os.close(writer)
    for fd in (listener.fileno(), reader, events, threads):
        if fd is not None:
            os.set_inheritable(fd, True)
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    descriptors = ["--listen-fd", str(listener.fileno()), "--config-fd", str(reader)]
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", program, *descriptors], {})


def _open_first(paths: tuple[str, ...]) -> int | None:
    """Open the first of these files that there is; None: there is none."""
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY)
        except OSError:
            continue
    return None


def _listen() -> socket.socket:
    """A listening socket for IPv6 and IPv4, or for the one that the pod has."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", _PORT), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        except OSError:
            pass  # a kernel with IPv6, in a pod without it
    return socket.create_server(("", _PORT), backlog=_BACKLOG)


if __name__ == "__main__":
    main()
