"""Calls workers from a process that may open few files, and prints the outcomes (see `test_descriptors.py`).

Arguments: the limit on open files, then the addresses of workers. Each worker has an answer for each call below.
"""

from gevent import monkey

monkey.patch_all()

import contextlib
import json
import os
import resource
import sys

import gevent

from qinling_falcon.invocation.worker_client import Execution, NoDescriptor, NotSent, WorkerClient
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings

limit, *addresses = sys.argv[1:]


def call(client: WorkerClient, number: int) -> str:
    """The status of an execution on a worker, or the error."""
    worker = LeasedWorker(f"w{number}", addresses[number], "s", 1, needs_load=False)
    try:
        return client.execute(worker, Execution("e", 5, {"context": {}}, None), 10).status
    except (NotSent, NoDescriptor) as error:
        return type(error).__name__


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    gevent.sleep(0.05)  # gevent's `os.close` closes in the next turn of the event loop


resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
client, other_client = WorkerClient(Settings()), WorkerClient(Settings())
call(client, 0)
opened = []
with contextlib.suppress(OSError):
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
outcomes = {
    "one idle connection": call(client, 1),
    "none": call(other_client, 2),
}
close([opened.pop()])
outcomes["one descriptor"] = call(other_client, 2)
close(opened)
outcomes["more workers than descriptors"] = [call(client, number) for number in range(3, len(addresses))]
print(json.dumps(outcomes))
