"""The secrets of workers in pods. They can be made anew from `SECRET_KEYS` and what the cluster knows of the pods.

Each runtime has a key, which is derived from the first of `SECRET_KEYS` and lies in the runtime's Secret. The program
of a pod derives the worker's own secret from this key and the pod's uid, and then forgets the key, before it loads any
function. So a function that finds the secret of its worker can't call another one, and the next manager, or one whose
Redis was emptied, can call all of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.models.secret_keys import SecretKeys
from qinling_falcon.settings import MOST_WORKERS

_PURPOSE = b"qinling-falcon worker key"


class WorkerSecrets:
    """Derives the keys of runtimes and the secrets of workers.

    Args:
        keys: the keys of `SECRET_KEYS`, at least one.
    """

    def __init__(self, keys: Sequence[str]):
        fingerprints = SecretKeys(keys).fingerprints
        self._keys = dict(zip(fingerprints, keys, strict=True))
        self.fingerprint = fingerprints[0]
        # Each pass of the manager asks for the secrets of all workers.
        self._derived: BoundedCache[str, str] = BoundedCache(2 * MOST_WORKERS)

    def runtime_key(self, runtime_id: str, fingerprint: str | None = None) -> str:
        """The key of a runtime, as hexadecimal digits, because pods get it in an environment variable.

        Args:
            runtime_id: the runtime.
            fingerprint: of the key of `SECRET_KEYS` to derive it from; None: the first one.

        Raises:
            KeyError: `SECRET_KEYS` has no key with this fingerprint.
        """
        key = base64.urlsafe_b64decode(self._keys[fingerprint or self.fingerprint])
        return hmac.new(key, _PURPOSE + b"\0" + runtime_id.encode(), hashlib.sha256).hexdigest()

    def worker_secret(self, runtime_id: str, fingerprint: str, pod_uid: str) -> str | None:
        """The secret of the worker in a pod; None: `SECRET_KEYS` has its key no more.

        The program of the pod computes the same (`runtimes/python3/pod.py`).
        """
        name = f"{fingerprint} {runtime_id} {pod_uid}"
        secret = self._derived.get(name)
        if secret is None:
            try:
                key = self.runtime_key(runtime_id, fingerprint)
            except KeyError:
                return None
            secret = hmac.new(key.encode(), pod_uid.encode(), hashlib.sha256).hexdigest()
            self._derived.put(name, secret)
        return secret
