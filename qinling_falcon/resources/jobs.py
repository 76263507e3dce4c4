"""`/v1/jobs`: times at which a function runs."""

from __future__ import annotations

import functools
from typing import Any

import falcon

from qinling_falcon.invocation.calls import Call
from qinling_falcon.models import due_jobs
from qinling_falcon.models import job as jobs
from qinling_falcon.models.listing import page
from qinling_falcon.models.rows import check_owner
from qinling_falcon.models.scope import scoped
from qinling_falcon.models.states import JobStatus
from qinling_falcon.resources.answers import accepted, answer, created
from qinling_falcon.resources.bodies import check_input, read_object
from qinling_falcon.resources.lists import answer_page, list_params, may_list_all
from qinling_falcon.resources.operation import accepts, lists, makes, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.base import RequestSchema
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.schemas.jobs import JobCreate, JobShown, JobUpdate
from qinling_falcon.settings import Settings

_create = JobCreate()
_update = JobUpdate()
_shown = JobShown()
_shown_execution = ExecutionShown()


class Jobs:
    """All jobs of a project."""

    def __init__(self, services: Services):
        self._alarms = services.alarms
        self._policy = services.policy
        self._settings = services.settings

    @operation("job:create", takes=JobCreate, answers=makes(JobShown), errors=(404,))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Make a job.

        It is one row: after a crash the job exists completely or not at all. If its alarm is missing, `tasks` sets it.
        """
        job = jobs.create(req.caller, **_read(_create, req, self._settings))
        self._alarms.announce(job.next_execution_time)
        created(req, resp, _shown.show(job), f"/v1/jobs/{job.id}", self._settings.public_endpoint)

    @operation("job:get_all", answers=lists("jobs", JobShown, jobs.LISTS, all_projects=True))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's jobs, or for an admin those of all."""
        all_projects = may_list_all(req, self._policy, "job:get_all:all_projects")
        params = list_params(req, self._settings, jobs.LISTS, all_projects=all_projects)
        found = page(scoped(req.caller, all_projects=all_projects).jobs(), jobs.LISTS, params)
        answer_page(req, resp, self._settings, "jobs", found, _shown)


class OneJob:
    """One job."""

    def __init__(self, services: Services):
        self._alarms = services.alarms
        self._settings = services.settings

    @operation("job:get", answers=shows(JobShown))
    def on_get(self, req: Request, resp: falcon.Response, job_id: str) -> None:
        """Show a job."""
        answer(resp, _shown.show(jobs.get(req.caller, job_id)))

    @operation("job:update", takes=JobUpdate, answers=accepts(JobShown))
    def on_put(self, req: Request, resp: falcon.Response, job_id: str) -> None:
        """Change a job.

        The change is one write: after a crash it is made or not.
        """
        changes = _read(_update, req, self._settings)
        if changes:
            job = jobs.update(req.caller, job_id, changes)
            if job.status == JobStatus.RUNNING:
                self._alarms.announce(job.next_execution_time)
        else:
            job = jobs.get(req.caller, job_id)
            check_owner(req.caller, job, "change")
        accepted(req, resp, f"/v1/jobs/{job_id}", self._settings.public_endpoint, _shown.show(job))

    @operation("job:delete")
    def on_delete(self, req: Request, resp: falcon.Response, job_id: str) -> None:
        """Delete a job; its executions stay.

        It is one write.
        """
        jobs.delete(req.caller, job_id)
        resp.status = falcon.HTTP_204


class JobRun:
    """Runs of a job that do not wait for its next time."""

    def __init__(self, services: Services):
        self._acceptance = services.acceptance
        self._alarms = services.alarms
        self._settings = services.settings

    @operation("job:run", answers=accepts(ExecutionShown), errors=(404, 409))
    def on_post(self, req: Request, resp: falcon.Response, job_id: str) -> None:
        """Run a job now, and answer with its execution, which runs later. Its count and its next time stay.

        The execution is durable when the answer is sent.
        """
        job = jobs.get(req.caller, job_id)
        check_owner(req.caller, job, "run")
        call = Call(
            function_id=job.function_id,
            function_version=job.function_version or 0,
            function_alias=job.function_alias,
            input=job.function_input,
            description=due_jobs.description(job_id),
            request_id=req.request_id,
            source="job",
            job_id=job_id,
        )
        execution = self._acceptance.accept(req.caller, call, write=functools.partial(jobs.run, req.caller, job_id))
        # A tick that ran meanwhile may have skipped the locked row. This alarm starts another tick.
        self._alarms.announce(job.next_execution_time)
        path = f"/v1/executions/{execution.id}"
        accepted(req, resp, path, self._settings.public_endpoint, _shown_execution.show(execution))


def _read(schema: RequestSchema, req: Request, settings: Settings) -> dict[str, Any]:
    values = schema.read(read_object(req, settings), lenient=req.reference_client)
    check_input(values.get("function_input"), "function_input", settings.async_max_input_size)
    return values
