"""A zygote whose workers stay in this machine's namespaces: `zygote.py WORKER_PROGRAM CONTROL_FD [REPORTS_AFTER_S]`.

With REPORTS_AFTER_S, their templates report the pid of a new child so much later, as on a busy host.

So these tests can look into a forked worker as into any other. The sandbox that zygotes make otherwise is in
`tests/orchestrator`.
"""

import os
import sys
import time

program, control_fd, *reports_after_s = sys.argv[1:]
sys.path.insert(0, os.path.dirname(program))
import worker  # from the path above

if not worker._KEPT.issuperset(os.environ):
    worker.run()  # executes this file again, without the environment
from qinling_worker import sandbox, start, template  # without the environment


class OpenSandbox(sandbox.Sandbox):
    """Changes the user alone."""

    namespaces = 0

    def enter(self, _entrances):
        if self.uid is not None:
            sandbox._become(self.uid)


class LateTemplate(template.Template):
    """Is slower than its children."""

    def _report(self, **event):
        if event["event"] == "spawned":
            time.sleep(float(reports_after_s[0]))
        super()._report(**event)


sandbox.Sandbox = OpenSandbox  # before the zygote imports it
if reports_after_s:
    template.Template = LateTemplate
start.main(["--zygote-fd", control_fd])
