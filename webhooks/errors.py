"""What can be wrong with a request about webhooks; ``code`` is public (docs/errors.md)."""

from __future__ import annotations

from core.errors import ServiceError


class EndpointNotFoundError(ServiceError):
    """No such endpoint in this account."""

    code = "not_found"


class TooManyEndpointsError(ServiceError):
    """The account has as many endpoints as it may have."""

    code = "too_many_webhooks"


class DeliveryNotFoundError(ServiceError):
    """No such delivery in this account, or its log entry has expired."""

    code = "not_found"


class EndpointDisabledError(ServiceError):
    """Nothing can be sent to the endpoint until it is enabled again."""

    code = "webhook_disabled"


class NoReceiversError(ServiceError):
    """The settings name no URL that is told what concerns the operator."""

    code = "no_operator_webhook"
