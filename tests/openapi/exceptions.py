"""Which checks of schemathesis which operations needn't pass, and why. All others hold for all operations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# A row that is there can't be named by a pattern, nor a day that there is (30 February), nor a zone's edge of all time.
_LISTED = (
    "^'marker': no row ",
    r"^Filter '\w+': expected a time, not '\s*[0-9]{4}-(02-(29|30|31)|(04|06|09|11)-31)",
    r"^Filter '\w+': expected a time, not '\s*(0001-01-01|9999-12-31)",
)
# A number as text may be out of its range.
_RANGE = r"must be (from -?\d+ to \d+|at least 1)\."
# Pages of the pool go by cursors of Redis.
_PAGED = "^marker: there is no such page"
_KEPT = "^min_warm: must not be greater than the function's concurrency"
_LIMIT = r"resource limitation not within the allowable range: \d+ ~ \d+\(\w+\)\."
_SAME = "^(version and function_version|memory and memory_size) are the same field, with different values"
_SOON = "^(first|next)_execution_time: must be at least one minute ahead"
_CRON = "^pattern: "
_OTHER = "^routing: version 0 is the alias's function_version"
# Texts of JSON are made up without a look at their format now and then.
_CODE = "code: (Invalid JSON: |must be a JSON object)"
# Schemathesis takes the id of a version for its number.
_LINK = "^(function_)?version: Expected a version number but received [0-9a-f]{8}-"
# A secret's form depends on the scheme, and an update may leave out the secrets only if the scheme stays.
_SECRETS = "^signature: secrets"
_CODES = (
    _LIMIT,
    _SAME,
    _CODE,
    "^The package ",
    r"^code: source swift needs authentication, which is off\.$",
    # Werkzeug's client makes long boundaries.
    "^The form could not be read: its Content-Type must name a boundary of",
    "^code: swift.(container|object) must ",  # what Swift takes counts bytes, and knows of segments
)

ACCEPTANCE: Mapping[str, tuple[str, ...]] = {
    "GET /v1/aliases": _LISTED,
    "GET /v1/executions": _LISTED,
    "GET /v1/functions": _LISTED,
    "GET /v1/functions/{function_id}": (r"^Function \S+ has no package to download\.$",),
    "GET /v1/functions/{function_id}/versions": _LISTED,
    "GET /v1/jobs": _LISTED,
    "GET /v1/pool/events": (_PAGED,),
    "GET /v1/pool/queues": (_PAGED,),
    "GET /v1/pool/workers": (_PAGED,),
    "GET /v1/runtimes": _LISTED,
    "GET /v1/webhooks": _LISTED,
    # The source of a function rules what its other fields may be.
    "POST /v1/functions": (
        *_CODES,
        _RANGE,
        _KEPT,
        "^package: the package's file is missing",
        "^runtime_id: Missing data",
        "^entry: a function from an image has no entry",
    ),
    "PUT /v1/functions/{function_id}": (
        *_CODES,
        _RANGE,
        _KEPT,
        "^code: the source of a function can't change",
        "^package: code can only change together with its package",
        "a function from an image can change its [a-z_, ]+ only",
    ),
    "POST /v1/functions/{function_id}/scale_up": (_RANGE,),
    "POST /v1/functions/{function_id}/scale_down": (_RANGE,),
    "POST /v1/functions/{function_id}/versions/{version}/scale_up": (_RANGE, _LINK),
    "POST /v1/functions/{function_id}/versions/{version}/scale_down": (_RANGE, _LINK),
    "POST /v1/functions/{function_id}/versions/{version}/detach": (_LINK,),
    "GET /v1/functions/{function_id}/versions/{version}": (_LINK,),
    "DELETE /v1/functions/{function_id}/versions/{version}": (_LINK,),
    "GET /v1/functions/{function_id}/workers": (_LINK,),
    "POST /v1/aliases": (_SAME, _RANGE, _OTHER),
    "PUT /v1/aliases/{alias_name}": (_SAME, _RANGE, _OTHER, "^name: an alias keeps its name"),
    "POST /v1/executions": (_RANGE, "^Idempotency-Key .* was used for a request with other fields"),
    "POST /v1/jobs": (_RANGE, _SOON, _CRON, "^count: must be 1 without a pattern"),
    "PUT /v1/jobs/{job_id}": (_SOON, _CRON, "and can't change any more\\.$"),
    "POST /v1/webhooks": (_RANGE, _SECRETS),
    "PUT /v1/webhooks/{webhook_id}": (_RANGE, _SECRETS),
    "PUT /v1/quotas": (_RANGE,),
}
"""`positive_data_acceptance`: valid by the document, and yet refused; what the answer says then, and no other."""

_LIVE = "ids that are there are put in the place of made ones, and may be deleted, or be of another kind"

AVAILABILITY: Mapping[str, str] = {
    "GET /v1/runtimes/{runtime_id}/pool": "the pool manager, which makes pools, doesn't run here",
    "GET /v1/webhooks/{webhook_id}": _LIVE,
    "PUT /v1/webhooks/{webhook_id}": _LIVE,
    "PUT /v1/aliases/{alias_name}": _LIVE,
    "GET /v1/executions/{execution_id}/log": _LIVE,
}
"""`ensure_resource_availability`: made, and yet 404."""

FREED: Mapping[str, str] = {
    "GET /v1/runtimes/{runtime_id}": "it is shown while the pool manager, which doesn't run here, deletes it",
    "PUT /v1/runtimes/{runtime_id}": "likewise",
    "DELETE /v1/runtimes/{runtime_id}": "likewise",
}
"""`use_after_free`: deleted, and yet no 404."""

_WHOLE: Mapping[str, Mapping[str, str]] = {
    "ensure_resource_availability": AVAILABILITY,
    "use_after_free": FREED,
}

SERVER_ERRORS: Mapping[tuple[str, int], str] = {
    ("POST /v1/executions", 501): "asynchronous runs, and images, can't be run by this service",
    ("POST /v1/functions/{function_id}/scale_up", 503): "no worker comes here",
    ("POST /v1/functions/{function_id}/versions/{version}/scale_up", 503): "no worker comes here",
}
"""Statuses from 500 on that are right. `not_a_server_error` is replaced by a look at all statuses against these."""


def is_known(check: str, operation: str, answer: Any) -> bool:
    """Whether an operation needn't have passed a check with this answer, a response of schemathesis's or None."""
    if check == "positive_data_acceptance" and answer is not None:
        said = answer.json().get("faultstring", "")
        return any(re.search(words, said) for words in ACCEPTANCE.get(operation, ()))
    return operation in _WHOLE.get(check, {})
