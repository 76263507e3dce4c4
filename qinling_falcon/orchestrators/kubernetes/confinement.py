"""What workers in pods lack, compared with workers in bubblewrap on one machine."""

from __future__ import annotations

from qinling_falcon.orchestrators.base import Confinement

CONFINEMENT = Confinement(
    "kubernetes",
    (
        (
            "second uid",
            "a function has the user id of its worker's supervisor. Landlock of the node's kernel keeps it from"
            " signalling the supervisor (Linux 6.12 or later), and from changing its own code for later calls (5.19)",
        ),
        (
            "process count",
            "RLIMIT_NPROC would count all pods of a node together. The supervisor counts a function's processes"
            " 50 times a second, and ends an execution that has more than MAX_PROCESSES",
        ),
        (
            "memory cgroup",
            "a function's `memory_size` limits the memory of its processes only, by checks 50 times a second; the"
            " kernel's limit is that of the pod, the same for all functions",
        ),
        ("cpu cgroup", "a function's `cpu` has no effect; each pod has at most MAX_CPU"),
        ("freezer cgroup", "functions are stopped by signals between their calls"),
        ("cgroup namespace", "on nodes with control groups of version 1, functions see the names of the node's groups"),
    ),
)
