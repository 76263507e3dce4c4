"""What a service of a test needs for the orchestrator that the environment names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def settings_of_orchestrator(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of one service. With `ORCHESTRATOR=kubernetes`, it has a namespace of its own while it runs.

    Args:
        given: the settings that the test has chosen, which come first.
    """
    if given.get("orchestrator", os.environ.get("ORCHESTRATOR")) != "kubernetes" or "kubernetes_namespace" in given:
        yield dict(given)
        return
    from tests.kubernetes.namespaces import new_namespace  # needs the client of Kubernetes

    with new_namespace() as namespace:
        yield namespace.settings() | dict(given)


def make_pod_images(folder: Path, images: Iterable[str]) -> dict[str, str]:
    """Make images of pods from folders with programs, if the workers are pods.

    Args:
        folder: has a folder like runtimes/python3 for each image.
        images: the names of these folders.

    Returns:
        By image, the line of its table in `RUNTIMES_FILE`; empty if the workers are no pods.
    """
    if os.environ.get("ORCHESTRATOR") != "kubernetes":
        return dict.fromkeys(images, "")
    from tests.kubernetes.runtime_images import import_runtime_image

    for image in images:
        import_runtime_image(f"qf-test-{image}", folder / image)
    return {image: f'pod_image = "qf-test-{image}:1"\n' for image in images}
