"""Webhooks: what requests may hold, what answers show."""

from __future__ import annotations

from typing import Any

from marshmallow import fields

from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.fields import NUMBER, TEXT, UUID, Moment, Plain, Text
from qinling_falcon.schemas.targets import TARGET, TargetRequest


class WebhookCreate(TargetRequest):
    """`POST /v1/webhooks`."""

    either = (TARGET,)

    description = Text()


class WebhookUpdate(TargetRequest):
    """`PUT /v1/webhooks/{id}`."""

    description = Text()


class InvokeUrl(fields.Field[str]):
    """Where a webhook is called, made of its id and the base URL of the answer that shows it."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str:
        assert isinstance(self.parent, WebhookShown)
        return f"{self.parent.base_url}/v1/webhooks/{value}/invoke"


class WebhookShown(Shown):
    """A webhook in one answer.

    Args:
        base_url: the URL that the caller reaches this service by.
    """

    id = Plain(UUID)
    function_id = Plain(UUID, null=True)
    function_version = Plain(NUMBER, null=True)
    function_alias = Plain(TEXT, null=True)
    description = Plain(TEXT, null=True)
    webhook_url = InvokeUrl(attribute="id", dump_only=True)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()

    def __init__(self, base_url: str):
        super().__init__()
        self.base_url = base_url
