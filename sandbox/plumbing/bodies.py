"""JSON bodies, read with each upstream's own errors for what cannot be read."""

import json
from collections.abc import Callable
from typing import Any

from flask import request

from sandbox.plumbing.calls import WireError

Broken = Callable[[ValueError], WireError]


def json_value(*, broken: Broken, wrong_type: WireError | None = None) -> Any:
    """The JSON value that the current request carries.

    Raises ``wrong_type``, where it is given, for a body of another content type, and what ``broken`` makes of the
    parser's error for a body that is no JSON.
    """
    if wrong_type is not None and request.mimetype != "application/json":
        raise wrong_type
    try:
        return json.loads(request.get_data())
    except ValueError as error:
        raise broken(error) from error


def json_object(*, broken: Broken, no_object: WireError, wrong_type: WireError | None = None) -> dict[str, Any]:
    """As ``json_value``; raises ``no_object`` for any other value than an object."""
    document = json_value(broken=broken, wrong_type=wrong_type)
    if not isinstance(document, dict):
        raise no_object
    return document
