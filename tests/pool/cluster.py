"""A trivial cluster: its workers are threads that answer `GET /ping`, and that outlive their manager."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import gevent
from gevent.event import Event

from qinling_falcon.orchestrators.base import Confinement, RuntimeImage, WorkerEvent, WorkerInfo


class ClusterWorker:
    """One worker. A test says what it holds.

    Attributes:
        info: what its orchestrator lists.
        is_loaded: whether it holds a target.
        is_busy: whether it runs a call.
    """

    def __init__(self, worker_id: str, runtime_id: str, image: str):
        self.is_loaded = False
        self.is_busy = False
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/ping"
                state = {"ready": True, "loaded": worker.is_loaded, "busy": worker.is_busy}
                body = json.dumps(state).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"127.0.0.1:{self._server.server_port}"
        self.info = WorkerInfo(worker_id, address, "secret", runtime_id, image, 1.0)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class ClusterOrchestrator:
    """The second orchestrator of these tests."""

    concurrent_starts = 2
    workers_outlive_manager = True
    most_workers = 10

    def __init__(self) -> None:
        self.workers: dict[str, ClusterWorker] = {}
        self.single_use: dict[str, WorkerInfo] = {}
        self.starts: Counter[str] = Counter()
        self.destroyed: set[str] = set()
        self.held_up: dict[str, Event] = {}

    def confinement(self) -> Confinement:
        return Confinement("cluster")

    def check(self, image: str) -> None:
        pass

    def server(self) -> None:
        pass

    def limit(self) -> None:
        pass

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        self.prepared = {runtime.runtime_id: runtime.image for runtime in runtimes}

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        self.starts[image] += 1
        if image in self.held_up:
            self.held_up[image].wait()
        return self.add(worker_id, image, runtime_id).info

    def add(self, worker_id: str, image: str, runtime_id: str) -> ClusterWorker:
        """A worker of which no manager knows."""
        self.workers[worker_id] = ClusterWorker(worker_id, runtime_id, image)
        return self.workers[worker_id]

    def destroy(self, worker_id: str) -> None:
        gevent.sleep(0.001)
        if worker_id in self.workers:
            self.workers.pop(worker_id).close()
            self.destroyed.add(worker_id)
        if self.single_use.pop(worker_id, None) is not None:
            self.destroyed.add(worker_id)

    def events(self) -> Sequence[WorkerEvent]:
        return []

    def list(self) -> Sequence[WorkerInfo]:
        return [*(worker.info for worker in self.workers.values()), *self.single_use.values()]

    def detach(self) -> None:
        pass

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()
