"""The names, labels and annotations of this installation's objects in the cluster.

Each installation has a namespace of its own, in which it owns all objects with the label `MANAGED`.
"""

from __future__ import annotations

import hashlib

MANAGED = "app.kubernetes.io/managed-by=qinling-falcon"
MANAGED_LABELS = {"app.kubernetes.io/managed-by": "qinling-falcon"}

RUNTIME = "qinling-falcon/runtime"
"""Label: the id of the runtime that an object belongs to."""
STATE = "qinling-falcon/state"
"""Label of a pod: `SPARE`, `TAKEN` or `SINGLE_USE`."""
SPARE = "spare"
"""The pod belongs to a Deployment, and no worker of the pool is made of it yet."""
TAKEN = "taken"
"""The pod is a worker of the pool. No controller owns it, so none deletes it."""
SINGLE_USE = "single-use"
"""The pod runs one execution of a function from an image, and then ends."""
WORKER = "qinling-falcon/worker"
"""Label of a pod: the id of the worker that was made of it. Label of a Service: the worker that it belongs to."""
HOLDER_KEY = "qinling-falcon/holder-key"
"""Label of a single-use pod: `holder_key` of the process that made it."""
HOLDER = "qinling-falcon/holder"
"""Annotation of a single-use pod: the process that made it, as the pool knows it."""
LEASE = "qinling-falcon/lease"
"""Annotation of a single-use pod: the name of the lease for which it was made."""
FUNCTION = "qinling-falcon/function"
"""Label of a single-use pod: the function."""
EXECUTION = "qinling-falcon/execution"
"""Label of a single-use pod: the execution."""
IMAGE_KEY = "qinling-falcon/image"
"""Label of a pod: `image_key` of the runtime's image."""
IMAGE = "qinling-falcon/runtime-image"
"""Annotation of a pod: the image, as the row of its runtime has it. Of a single-use pod: the function's image."""
SECRET_KEY = "qinling-falcon/secret-key"
"""Label of a pod: the fingerprint of the key of `SECRET_KEYS` from which its secret is made."""
TEMPLATE = "qinling-falcon/template"
"""Annotation of a Deployment: a digest of what it was made from."""
NUDGED = "qinling-falcon/nudged"
"""Annotation of a Deployment: when its controller was last made to try again."""

WORKER_PORT = 9090
"""The TCP port of a worker's HTTP server."""
CONTAINER = "worker"


def image_key(image: str) -> str:
    """A short name for an image that can be a label."""
    return hashlib.sha256(image.encode()).hexdigest()[:16]


def runtime_name(runtime_id: str) -> str:
    """The name of a runtime's Deployment and Secret."""
    return f"runtime-{runtime_id}"


def service_name(worker_id: str) -> str:
    """The name of a worker's Service."""
    return f"worker-{worker_id}"


def holder_key(holder: str) -> str:
    """A short name for a process that can be a label."""
    return hashlib.sha256(holder.encode()).hexdigest()[:16]


def execution_pod(execution_id: str) -> str:
    """The name of the pod that runs an execution.

    It does not depend on the attempt, so the API server itself refuses a second pod while one of an earlier attempt
    exists.
    """
    return f"execution-{execution_id}"
