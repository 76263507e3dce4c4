"""A zygote whose workers stay in this machine's namespaces: `zygote.py WORKER_PROGRAM CONTROL_FD`.

So these tests can look into a forked worker as into any other. The sandbox that zygotes make otherwise is in
`tests/orchestrator`.
"""

import os
import sys

program, control_fd = sys.argv[1:]
sys.path.insert(0, os.path.dirname(program))
import worker  # from the path above

if not worker._KEPT.issuperset(os.environ):
    worker.run()  # executes this file again, without the environment
from qinling_worker import sandbox, start  # without the environment


class OpenSandbox(sandbox.Sandbox):
    """Changes the user alone."""

    namespaces = 0

    def enter(self, _entrances):
        if self.uid is not None:
            sandbox._become(self.uid)


sandbox.Sandbox = OpenSandbox  # before the zygote imports it
start.main(["--zygote-fd", control_fd])
