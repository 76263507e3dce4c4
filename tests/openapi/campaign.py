"""A run of schemathesis over all operations, and what it found."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import gevent
import schemathesis
from gevent.event import Event
from schemathesis.engine import Status, events, from_schema

from tests.openapi.exceptions import is_known
from tests.openapi.strategies import Things, aim, register


@dataclass
class Outcome:
    """What a run found, by check and operation; what broke the run itself; and how often each status was answered."""

    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)


class HandedOver:
    """A WSGI app for other threads, run in the one that has made this: greenlets are bound to it."""

    def __init__(self, app: Callable[..., Iterable[bytes]]):
        self._app = app
        self._todo: queue.SimpleQueue[tuple[Any, Any, Future[list[bytes]]]] = queue.SimpleQueue()
        self._rung = Event()
        self._bell = gevent.get_hub().loop.async_()
        self._bell.start(self._rung.set)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        answer: Future[list[bytes]] = Future()
        self._todo.put((environ, start_response, answer))
        self._bell.send()
        return answer.result()

    def while_it_runs(self, work: Callable[[], None]) -> None:
        """Do `work` in another thread, and answer its requests until it is done."""
        # A daemon, because it waits for its answer for ever if a timeout ends this function.
        thread = threading.Thread(target=self._until_done, args=(work,), daemon=True)
        thread.start()
        while thread.is_alive():
            self._rung.wait(timeout=0.2)  # its end rings before it is dead
            self._rung.clear()
            while not self._todo.empty():
                environ, start_response, answer = self._todo.get()
                try:
                    answer.set_result(list(self._app(environ, start_response)))
                except BaseException as error:
                    answer.set_exception(error)
        thread.join()

    def _until_done(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._bell.send()


def run(app: Callable[..., Iterable[bytes]], things: Things, config: dict[str, Any], **loading: Any) -> Outcome:
    """Run all phases that `config` (as of `schemathesis.toml`) names, on an app of this thread."""
    register()
    outcome = Outcome()
    handed_over = HandedOver(app)

    def work() -> None:
        loaded = schemathesis.openapi.from_wsgi(
            "/openapi.json", handed_over, config=schemathesis.Config.from_dict(config), **loading
        )
        aim(loaded, things)
        for event in from_schema(loaded).execute():
            if isinstance(event, events.ScenarioFinished):
                take(outcome, event)
            elif isinstance(event, events.NonFatalError):
                outcome.errors.append(f"{event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                outcome.errors.append(repr(event.exception))

    handed_over.while_it_runs(work)
    return outcome


def take(outcome: Outcome, event: Any) -> None:
    """Note what one scenario of a run has found, but for what is known."""
    recorder = event.recorder
    labels = {case_id: node.value.operation.label for case_id, node in recorder.cases.items()}
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is not None:
            outcome.statuses[labels[case_id], interaction.response.status_code] += 1
    for case_id, checks in recorder.checks.items():
        # A link from a field that was null, such as the runtime of an image.
        if "None" in map(str, (recorder.cases[case_id].value.path_parameters or {}).values()):
            continue
        said = recorder.interactions[case_id].response
        for check in checks:
            if check.status is Status.FAILURE and not is_known(check.name, labels[case_id], said):
                answer = "" if said is None else said.content[:500].decode(errors="replace")
                info = check.failure_info
                found = f"{event.phase}: {info.failure.message}\n{answer}\n{info.code_sample}"
                outcome.failures.setdefault((check.name, labels[case_id]), found)
