"""Runs functions from images, each execution in a pod of its own.

A process watches the pods that it has made, by one watch, which begins with its first execution. It makes a pod, waits
for the end of its container and reads its log. The process itself deletes the pod in three cases: at the timeout, after
a cancellation, and if the container does not start. The pool manager deletes every pod when its lease has ended
(see `pool/single_use.py`).

The timeout counts from the moment at which this process sees the container run. The cluster tells of a start and of an
end up to a second late, so an end that comes `_TOLD_LATE_S` after the timeout still counts. The copy of the watch may
be older than that, so the API server is asked before an execution is given up. While the API server is away, no end is
known: then this waits longer, and the pod's `activeDeadlineSeconds` bounds its time.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field

import gevent
from gevent.event import Event

from qinling_falcon.orchestrators.image_runs import (
    EndKind,
    ImageRun,
    ImageRunEnd,
    NotStarted,
    RunLost,
    longest_run_s,
)
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.image_pods import ImagePod, PodEnd, make_image_pod, read_image_pod
from qinling_falcon.orchestrators.kubernetes.images import is_image_name
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_TOLD_LATE_S = 1.0
# Trouble that may pass by itself, such as a registry that does not answer, is waited for so long.
_PATIENCE_S = 20.0
_LOOK_AGAIN_S = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_LOG_TRIES = 3
_LOG_PAUSE_S = 0.3
_FORBIDDEN, _NOT_FOUND, _CONFLICT, _UNPROCESSABLE = 403, 404, 409, 422
_RETRY_AFTER_S = 5


@dataclass(slots=True, eq=False)
class _Running:
    """An execution that this process runs.

    Attributes:
        run: the execution.
        changed: is set when its pod has changed, or it was cancelled.
        is_cancelled: whether it was cancelled.
        started_at: when its container was first seen to run, on the monotonic clock; None: it was not.
    """

    run: ImageRun
    changed: Event = field(default_factory=Event)
    is_cancelled: bool = False
    started_at: float | None = None

    def wait(self, timeout_s: float) -> None:
        """Wait for a change."""
        self.changed.wait(max(0.0, timeout_s))
        self.changed.clear()


class KubernetesImageRuns:
    """Runs functions from images in a cluster (`orchestrators.image_runs.ImageRuns`).

    Args:
        settings: the service's settings.
        holder: this process, as the pool knows it.

    Raises:
        SettingsError: the API server can't be reached with these settings.
    """

    def __init__(self, settings: Settings, holder: str):
        self._settings = settings
        self._api = KubernetesApi(settings)
        self._path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/pods"
        self._selector = f"{names.MANAGED},{names.HOLDER_KEY}={names.holder_key(holder)}"
        self._pods: Watch[ImagePod] = Watch(self._api, self._path, self._selector, read_image_pod, self._note_change)
        self._running: dict[str, _Running] = {}
        self._pods.start()

    def run(self, run: ImageRun) -> ImageRunEnd:
        """Make a pod for the execution, and wait for the end of its container.

        Raises:
            NotStarted: the API server is away, or the cluster has no room. Nothing has run.
            RunLost: the pod was deleted, or the API server was away for too long.
        """
        if not is_image_name(run.image):
            return ImageRunEnd(EndKind.UNUSABLE, reason=f"{run.image!r} can't be the name of an image")
        running = self._running[run.worker_id] = _Running(run)
        try:
            now = time.monotonic()
            start_by = now + self._settings.kubernetes_start_timeout_s
            lost_at = now + longest_run_s(self._settings, run.timeout_s)
            return self._make_pod(running, start_by) or self._follow(running, start_by, lost_at)
        finally:
            del self._running[run.worker_id]

    def cancel(self, worker_id: str) -> bool:
        """End the pod of a worker. Returns False if this process does not run it."""
        running = self._running.get(worker_id)
        if running is None:
            return False
        running.is_cancelled = True
        running.changed.set()
        return True

    def _make_pod(self, running: _Running, start_by: float) -> ImageRunEnd | None:
        """Make the pod. It is tried again while a pod of an earlier attempt is ending, or the server does not answer.

        Returns:
            The end, if there can be no pod; None: there is one now.
        """
        if not self._pods.wait(self._settings.kubernetes_api_timeout_s) or not self._api_answers():
            logger.warning("the pod of an execution can't be made", extra=_extra(running.run, self._pods.trouble or ""))
            raise NotStarted("The Kubernetes API server is away. The function has not run; try again.", retry_after_s=5)
        pod = make_image_pod(running.run, self._settings)
        pause_s, may_exist = _FIRST_PAUSE_S, False
        while True:
            if running.is_cancelled:
                return ImageRunEnd(EndKind.CANCELLED)
            try:
                made = self._api.create(self._path, pod)
            except ApiAway as error:
                reason, may_exist = str(error), True
            except ApiError as error:
                reason = str(error)
                if may_exist and self._was_made(running.run):
                    return None
                if error.status == _UNPROCESSABLE:
                    return ImageRunEnd(EndKind.UNUSABLE, reason=reason)
                if error.status != _CONFLICT:
                    raise RunLost(reason) if may_exist else self._refused(running.run, error) from error
            else:
                self._pods.put(made)
                return None
            if time.monotonic() + pause_s > start_by:
                logger.warning("the pod of an execution can't be made", extra=_extra(running.run, reason))
                if may_exist:
                    raise RunLost(reason)
                message = "The earlier attempt of this execution has not ended yet."
                raise NotStarted(message, retry_after_s=_RETRY_AFTER_S)
            running.wait(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def _api_answers(self) -> bool:
        """Whether the API server answers. It is asked if the last request found it away."""
        if self._api.away_since is not None:
            with contextlib.suppress(ApiAway, ApiError):
                self._api.get(self._path, {"labelSelector": self._selector, "limit": "1"})
        return self._api.away_since is None

    def _was_made(self, run: ImageRun) -> bool:
        """Whether a request whose answer was lost has made the pod."""
        try:
            found = self._api.get(f"{self._path}/{names.execution_pod(run.execution_id)}")
        except (ApiAway, ApiError):
            return False
        if read_image_pod(found).worker_id != run.worker_id:
            return False
        self._pods.put(found)
        return True

    def _refused(self, run: ImageRun, error: ApiError) -> NotStarted:
        """The error for a pod that the cluster refuses. The details are for the operator."""
        logger.warning("the cluster refuses the pod of an execution", extra=_extra(run, str(error)))
        if error.status == _FORBIDDEN and "quota" in str(error):
            reason = "The cluster's quota of resources is used up."
        else:
            reason = "The cluster refuses the function's pod; the operator finds the reason in the service's log."
        return NotStarted(f"{reason} The function has not run; try again.", retry_after_s=_RETRY_AFTER_S)

    def _follow(self, running: _Running, start_by: float, lost_at: float) -> ImageRunEnd:
        """Wait for the end of a pod.

        Args:
            running: the execution.
            start_by: when its container must have started, in seconds of `time.monotonic`.
            lost_at: when its end must be known.
        """
        run = running.run
        trouble_since: float | None = None
        while True:
            pod, now = self._pods.objects.get(names.execution_pod(run.execution_id)), time.monotonic()
            # The exit status of a program that was ended with its pod says nothing about the function.
            is_deleted = pod is None or pod.worker_id != run.worker_id or (pod.is_being_deleted and pod.end is not None)
            if running.is_cancelled and (is_deleted or pod is None or pod.end is None):
                if pod is not None and not is_deleted:
                    self._delete(pod)
                return ImageRunEnd(EndKind.CANCELLED)
            if pod is None or is_deleted:
                raise RunLost("its pod was deleted")
            if running.started_at is None and pod.has_started:
                running.started_at = now
            if pod.end is not None:
                return self._ended(running, pod, pod.end)
            if now >= lost_at:
                raise RunLost("its end was not told in time")
            if running.started_at is not None:
                wake_at = running.started_at + run.timeout_s + _TOLD_LATE_S
                if now >= wake_at and self._is_current(pod):
                    return self._timed_out(running, pod)
            else:
                trouble_since = (trouble_since or now) if pod.trouble or pod.is_unschedulable else None
                is_final = pod.trouble is not None and pod.trouble.is_final
                wake_at = start_by if trouble_since is None else min(start_by, trouble_since + _PATIENCE_S)
                if (is_final or now >= wake_at) and self._is_current(pod):
                    return self._give_up(running, pod)
            running.wait(min(wake_at, lost_at) - now if wake_at > now else _LOOK_AGAIN_S)

    def _is_current(self, pod: ImagePod) -> bool:
        """Ask the API server whether a pod still is as this process knows it. If it is not, the copy is renewed."""
        try:
            found = self._api.get(f"{self._path}/{pod.name}")
        except ApiAway:
            return False
        except ApiError as error:
            if error.status == _NOT_FOUND:
                self._pods.forget(pod.name)
            return False
        return self._pods.put(found) == pod

    def _ended(self, running: _Running, pod: ImagePod, end: PodEnd) -> ImageRunEnd:
        if end.kind is None:
            raise RunLost(end.reason)
        seen_s = 0.0 if running.started_at is None else time.monotonic() - running.started_at
        log = self._read_log(pod)
        return ImageRunEnd(end.kind, _duration_s(end.ran_s, seen_s), log, end.exit_status, end.reason)

    def _timed_out(self, running: _Running, pod: ImagePod) -> ImageRunEnd:
        log = self._read_log(pod)
        self._delete(pod)
        assert running.started_at is not None
        return ImageRunEnd(EndKind.TIMED_OUT, time.monotonic() - running.started_at, log)

    def _give_up(self, running: _Running, pod: ImagePod) -> ImageRunEnd:
        """End a pod whose container does not start.

        Raises:
            NotStarted: the image is not the reason.
            RunLost: the container may have started just now.
        """
        is_deleted = self._delete(pod)
        latest = self._pods.objects.get(pod.name)
        if not is_deleted or (latest is not None and latest.uid == pod.uid and latest.has_started):
            raise RunLost("its pod was deleted")
        reason = pod.trouble.reason if pod.trouble else "unschedulable" if pod.is_unschedulable else "slow"
        logger.warning("the pod of an execution does not start", extra=_extra(running.run, reason))
        if pod.trouble is not None:
            return ImageRunEnd(EndKind.UNUSABLE, reason=pod.trouble.reason)
        if pod.is_unschedulable:
            message = "No node of the cluster has room for the function's pod."
        else:
            message = f"The function's pod did not start within {self._settings.kubernetes_start_timeout_s:g} s."
        raise NotStarted(f"{message} The function has not run; try again.", retry_after_s=_RETRY_AFTER_S)

    def _delete(self, pod: ImagePod) -> bool:
        """Delete a pod. Returns whether the API server has confirmed it; if not, the pool manager deletes it later."""
        try:
            self._api.delete(f"{self._path}/{pod.name}", uid=pod.uid)
        except (ApiAway, ApiError) as error:
            logger.warning("the pod of an execution is deleted later", extra={"pod": pod.name, "reason": str(error)})
            return False
        return True

    def _read_log(self, pod: ImagePod) -> str:
        """The log of a pod, cut at `MAX_LOG_SIZE`."""
        if not pod.has_started:
            return ""
        most, reason = self._settings.max_log_size, ""
        for _ in range(_LOG_TRIES):
            try:
                log = self._api.log(f"{self._path}/{pod.name}/log", {"limitBytes": str(most + 1)})
            except (ApiAway, ApiError) as error:
                reason = str(error)
                gevent.sleep(_LOG_PAUSE_S)
                continue
            text = log[:most].decode("utf-8", "replace")
            return text if len(log) <= most else f"{text}\n--- log cut: more than {most} bytes were printed ---\n"
        logger.warning("the log of a pod was not read", extra={"pod": pod.name, "reason": reason})
        return "--- the log could not be read from the cluster ---\n"

    def _note_change(self, before: ImagePod | None, after: ImagePod | None) -> None:
        for pod in (before, after):
            running = self._running.get(pod.worker_id) if pod is not None else None
            if running is not None:
                running.changed.set()


def _duration_s(told_s: float, seen_s: float) -> float:
    """How long a container ran.

    Args:
        told_s: by the cluster's times, which have whole seconds, so it is less than a second wrong.
        seen_s: from the report of its start to the report of its end, as this process got them. It is too short if one
            report told of both.
    """
    return told_s if abs(told_s - seen_s) >= 1 else seen_s


def _extra(run: ImageRun, reason: str) -> dict[str, str]:
    return {"execution_id": run.execution_id, "function_id": run.function_id, "image": run.image, "reason": reason}
