"""The settings of `ORCHESTRATOR=kubernetes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qinling_falcon.setting_fields import MIB, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """How the cluster is reached, and what the pods of workers get. Sizes are bytes, durations seconds."""

    kubernetes_namespace: str = setting(
        "qinling-functions", "Namespace of the workers' pods. Each installation needs one of its own."
    )
    kubernetes_config: Path | None = setting(
        None,
        "Kubeconfig file. `pool` needs the API server; `web` and `worker` need it for functions from images, and with"
        " `KUBERNETES_WORKER_ACCESS=api-proxy`. Unset, and without `KUBERNETES_API_URL`: the service account of the pod"
        " that the process runs in.",
    )
    kubernetes_context: str | None = setting(None, "Context in `KUBERNETES_CONFIG`. Unset: its current one.")
    kubernetes_api_url: str | None = setting(
        None, "URL of the API server, in place of `KUBERNETES_CONFIG`; with `KUBERNETES_TOKEN_FILE`."
    )
    kubernetes_token_file: Path | None = setting(
        None, "File with the bearer token for `KUBERNETES_API_URL`; it is read again when it changes."
    )
    kubernetes_ca_file: Path | None = setting(
        None, "File with the certificates that `KUBERNETES_API_URL` is checked against. Unset: those of the system."
    )
    kubernetes_api_timeout_s: float = setting(
        10.0, "Time limit for a request to the API server.", low=1, high=300
    )
    kubernetes_api_budget: int = setting(
        1200,
        "Most requests that a process sends to the API server in a minute, without calls through `api-proxy`. Further"
        " ones wait, which is logged. A tenth is kept for urgent ones.",
        low=60,
    )
    kubernetes_worker_access: Literal["pod", "node-port", "api-proxy"] = setting(
        "pod",
        "How workers are reached. `pod`: by the addresses of their pods, from inside of the cluster. From outside:"
        " `node-port`, by a Service for each worker; `api-proxy`, through the API server.",
    )
    kubernetes_node_address: str | None = setting(
        None,
        "IP address at which `node-port` reaches the nodes, such as that of one node or of a load balancer. Unset: that"
        " of the worker's own node, as the cluster knows it.",
    )
    kubernetes_spare_pods: int = setting(
        2, "Pods of each runtime that have started and are not in the pool yet; a start takes one.", low=1, high=100
    )
    kubernetes_start_timeout_s: float = setting(
        120.0, "A start fails if no pod is ready after so long, also if an image is still being pulled.", low=5
    )
    kubernetes_pod_grace_s: float = setting(
        5.0, "Time that a pod gets to end before it is killed.", low=0, high=300
    )
    kubernetes_image_prefix: str = setting(
        "", "Put in front of each `pod_image` in `RUNTIMES_FILE`, such as `registry.example/qinling/`."
    )
    kubernetes_pull_policy: Literal["IfNotPresent", "Always", "Never"] = setting(
        "IfNotPresent", "When the images of pods are pulled."
    )
    kubernetes_pull_secrets: str | None = setting(
        None,
        "Secrets for pulling the images of runtimes, separated by commas; they are in `KUBERNETES_NAMESPACE`.",
    )
    kubernetes_function_pull_secrets: str | None = setting(
        None,
        "The same for functions from images. All users can then run, and read, every image that these Secrets open.",
    )
    kubernetes_runtime_class: str | None = setting(
        None,
        "RuntimeClass for the pods of functions from images and of runtimes that are not trusted, such as `gvisor`.",
    )
    kubernetes_request_cpu: int = setting(100, "CPU that a pod requests, in millicores.", low=1)
    kubernetes_request_memory: int = setting(128 * MIB, "Memory that a pod requests.", low=16 * MIB)
