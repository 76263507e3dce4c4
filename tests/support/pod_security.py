"""The rules of the Pod Security Standard `restricted`, those of `baseline` included.

Each rule takes the JSON of a pod (or of a template of pods) and returns whether the pod satisfies it. They follow
https://kubernetes.io/docs/concepts/security/pod-security-standards/ for Linux pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Pod = Mapping[str, Any]

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def containers(pod: Pod) -> list[Mapping[str, Any]]:
    """All containers of a pod."""
    spec = pod["spec"]
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return [container for kind in kinds for container in spec.get(kind, ())]


def _contexts(pod: Pod) -> Iterator[Mapping[str, Any]]:
    """The security contexts of the pod and of its containers."""
    yield pod["spec"].get("securityContext", {})
    for container in containers(pod):
        yield container.get("securityContext", {})


def _effective(pod: Pod, field: str) -> list[Any]:
    """A field of the security context as it counts for each container: its own, or else the pod's."""
    common = pod["spec"].get("securityContext", {}).get(field)
    return [container.get("securityContext", {}).get(field, common) for container in containers(pod)]


def _no_host_process(pod: Pod) -> bool:
    return not any(context.get("windowsOptions", {}).get("hostProcess") for context in _contexts(pod))


def _no_host_namespaces(pod: Pod) -> bool:
    return not any(pod["spec"].get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))


def _not_privileged(pod: Pod) -> bool:
    return not any(context.get("privileged") for context in _contexts(pod))


def _no_host_ports(pod: Pod) -> bool:
    return not any(port.get("hostPort") for container in containers(pod) for port in container.get("ports", ()))


def _no_host_probes(pod: Pod) -> bool:
    handlers = []
    for container in containers(pod):
        handlers += [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup")]
        handlers += container.get("lifecycle", {}).values()
    actions = [handler.get(kind, {}) for handler in handlers for kind in ("httpGet", "tcpSocket")]
    return not any(action.get("host") for action in actions)


def _app_armor_on(pod: Pod) -> bool:
    profiles = [context.get("appArmorProfile", {}).get("type", "RuntimeDefault") for context in _contexts(pod)]
    annotations = pod.get("metadata", {}).get("annotations", {})
    named = [value for name, value in annotations.items() if name.startswith(_APPARMOR)]
    allowed = all(value == "runtime/default" or value.startswith("localhost/") for value in named)
    return allowed and all(profile in ("RuntimeDefault", "Localhost") for profile in profiles)


def _selinux_kept(pod: Pod) -> bool:
    options = [context.get("seLinuxOptions", {}) for context in _contexts(pod)]
    return all(
        option.get("type", "") in _SELINUX_TYPES and not option.get("user") and not option.get("role")
        for option in options
    )


def _proc_masked(pod: Pod) -> bool:
    return all(context.get("procMount", "Default") == "Default" for context in _contexts(pod))


def _sysctls_safe(pod: Pod) -> bool:
    given = pod["spec"].get("securityContext", {}).get("sysctls", ())
    return all(sysctl["name"] in _SYSCTLS for sysctl in given)


def _volumes_harmless(pod: Pod) -> bool:
    return all(set(volume) - {"name"} <= _VOLUMES for volume in pod["spec"].get("volumes", ()))


def _no_escalation(pod: Pod) -> bool:
    return all(
        container.get("securityContext", {}).get("allowPrivilegeEscalation") is False for container in containers(pod)
    )


def _non_root(pod: Pod) -> bool:
    return all(value is True for value in _effective(pod, "runAsNonRoot"))


def _user_not_zero(pod: Pod) -> bool:
    return not any(context.get("runAsUser") == 0 for context in _contexts(pod))


def _seccomp_on(pod: Pod) -> bool:
    profiles = [(profile or {}).get("type") for profile in _effective(pod, "seccompProfile")]
    own = [context.get("seccompProfile", {}).get("type") for context in _contexts(pod)]
    return all(profile in ("RuntimeDefault", "Localhost") for profile in profiles) and "Unconfined" not in own


def _no_capabilities(pod: Pod) -> bool:
    given = [container.get("securityContext", {}).get("capabilities", {}) for container in containers(pod)]
    return all("ALL" in each.get("drop", ()) and set(each.get("add", ())) <= {"NET_BIND_SERVICE"} for each in given)


RESTRICTED: Mapping[str, Callable[[Pod], bool]] = {
    "HostProcess": _no_host_process,
    "Host Namespaces": _no_host_namespaces,
    "Privileged Containers": _not_privileged,
    "Capabilities": _no_capabilities,
    "Host Ports": _no_host_ports,
    "Host Probes / Lifecycle Hooks": _no_host_probes,
    "AppArmor": _app_armor_on,
    "SELinux": _selinux_kept,
    "/proc Mount Type": _proc_masked,
    "Sysctls": _sysctls_safe,
    "Volume Types": _volumes_harmless,
    "Privilege Escalation": _no_escalation,
    "Running as Non-root": _non_root,
    "Running as Non-root user": _user_not_zero,
    "Seccomp": _seccomp_on,
}
"""The rules by their names in the standard."""


def broken_rules(pod: Pod) -> list[str]:
    """The rules that a pod does not satisfy."""
    return [name for name, holds in RESTRICTED.items() if not holds(pod)]
