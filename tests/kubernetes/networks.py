"""Leaves the network of the node, where pods have addresses and in which the tests run (see `__main__.py`)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

import pytest

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def outside_of_the_node() -> Iterator[None]:
    """Run this thread, and the processes that it starts, outside: pods have no addresses there, but the API server has.

    Threads that this one starts are outside, too.
    """
    network, kubeconfig = os.environ.get("KUBERNETES_OUTER_NETWORK"), os.environ.get("KUBERNETES_OUTER_CONFIG")
    if network is None or kubeconfig is None:
        pytest.skip("leaves the node's network, which needs a throw-away cluster")
    with contextlib.ExitStack() as stack:
        inside = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        stack.callback(os.close, inside)
        outside = os.open(network, os.O_RDONLY)
        stack.callback(os.close, outside)
        _enter(outside)
        stack.callback(_enter, inside)
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv("KUBERNETES_CONFIG", kubeconfig)
        yield


def _enter(network: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(network, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
