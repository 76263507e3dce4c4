"""A pool manager for these tests, in a process that can be killed: gevent-patched, driven by JSON lines.

Each line of standard input is `[method, arguments...]`; `start_all` starts several workers at once, and `ids`
lists the live ones. Each line of standard output is the answer.
"""

from gevent import monkey

monkey.patch_all()

import dataclasses
import json
import sys

import gevent

from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings_environment import read_settings


def main() -> None:
    orchestrator = ProcessOrchestrator(read_settings())
    for line in iter(sys.stdin.readline, ""):
        method, *arguments = json.loads(line)
        if method == "start_all":
            greenlets = [gevent.spawn(orchestrator.start, worker_id, arguments[1]) for worker_id in arguments[0]]
            answer = [dataclasses.asdict(greenlet.get()) for greenlet in greenlets]
        elif method == "ids":
            answer = [worker.worker_id for worker in orchestrator.list()]
        else:
            answer = getattr(orchestrator, method)(*arguments)
        print(json.dumps(answer), flush=True)
    orchestrator.detach()


main()
