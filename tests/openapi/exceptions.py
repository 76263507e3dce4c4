"""Which checks of schemathesis which operations needn't pass, and why. All others hold for all operations."""

from __future__ import annotations

from collections.abc import Mapping

_MARKER = "a marker has to name a row that is there, and a time a day that there is (30 February)"
_TEXT = "a number as text may be out of its range, which no pattern says"
_TARGET = "a function or an alias is required, and null stands for neither"
_SAME = "two names of one field may have different values"
_PACKAGE = "a package has to be a sane zip, and the source of a function rules what its other fields may be"
_LIVE = "ids that are there are put in the place of made ones, and may be deleted, or be of another kind"

ACCEPTANCE: Mapping[str, str] = {
    "GET /v1/aliases": _MARKER,
    "GET /v1/executions": _MARKER,
    "GET /v1/functions": _MARKER,
    "GET /v1/functions/{function_id}": "a function from an image has no package to download",
    "GET /v1/functions/{function_id}/versions": _MARKER,
    "GET /v1/jobs": _MARKER,
    "GET /v1/runtimes": _MARKER,
    "GET /v1/webhooks": _MARKER,
    "POST /v1/functions": _PACKAGE,
    "PUT /v1/functions/{function_id}": _PACKAGE,
    "POST /v1/functions/{function_id}/scale_up": _TEXT,
    "POST /v1/functions/{function_id}/scale_down": _TEXT,
    "POST /v1/functions/{function_id}/versions/{version}/scale_up": _TEXT,
    "POST /v1/functions/{function_id}/versions/{version}/scale_down": _TEXT,
    "POST /v1/functions/{function_id}/versions/{version}/detach": "a version's number may be too large",
    "GET /v1/functions/{function_id}/versions/{version}": "a version's number may be too large",
    "DELETE /v1/functions/{function_id}/versions/{version}": "a version's number may be too large",
    "GET /v1/functions/{function_id}/workers": "a version's number may be too large",
    "POST /v1/aliases": f"{_SAME}; {_TEXT}",
    "PUT /v1/aliases/{alias_name}": f"{_SAME}; {_TEXT}; a name can't change",
    "POST /v1/executions": f"{_TARGET}; {_TEXT}",
    "POST /v1/jobs": f"{_TARGET}; {_TEXT}; a pattern or a time is required; a pattern has to fire some time",
    "PUT /v1/jobs/{job_id}": "a pattern has to fire some time; a job that has ended doesn't change; times are to come",
    "POST /v1/webhooks": f"{_TARGET}; {_TEXT}",
    "PUT /v1/webhooks/{webhook_id}": _TEXT,
}
"""`positive_data_acceptance`: valid by the document, and yet 400."""

AVAILABILITY: Mapping[str, str] = {
    "GET /v1/runtimes/{runtime_id}/pool": "the pool manager, which makes pools, doesn't run here",
    "GET /v1/webhooks/{webhook_id}": _LIVE,
    "GET /v1/executions/{execution_id}/log": _LIVE,
}
"""`ensure_resource_availability`: made, and yet 404."""

FREED: Mapping[str, str] = {
    "GET /v1/runtimes/{runtime_id}": "it is shown while the pool manager, which doesn't run here, deletes it",
    "PUT /v1/runtimes/{runtime_id}": "likewise",
    "DELETE /v1/runtimes/{runtime_id}": "likewise",
}
"""`use_after_free`: deleted, and yet no 404."""

EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "positive_data_acceptance": ACCEPTANCE,
    "ensure_resource_availability": AVAILABILITY,
    "use_after_free": FREED,
}

SERVER_ERRORS: Mapping[tuple[str, int], str] = {
    ("POST /v1/executions", 501): "asynchronous runs, and images, can't be run by this service",
    ("POST /v1/functions/{function_id}/scale_up", 503): "no worker comes here",
    ("POST /v1/functions/{function_id}/versions/{version}/scale_up", 503): "no worker comes here",
}
"""Statuses from 500 on that are right. `not_a_server_error` is replaced by a look at all statuses against these."""
