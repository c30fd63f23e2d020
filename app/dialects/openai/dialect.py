"""How OpenAI's API speaks HTTP: errors in its envelope, and the headers that its SDKs read from every answer."""

from __future__ import annotations

import time

from flask import Response, g

from app.dialects.openai.errors import say
from app.http.dialect import Dialect
from app.http.limit_headers import Unit, nearest, told

_UNITS: tuple[Unit, ...] = ("requests", "images")
VERSION = "2020-10-01"  # the only one that OpenAI's API has ever named


def finish(response: Response) -> None:
    """Add what the SDKs read besides ``x-request-id``: of several limits of requests, or of images, the one nearest to
    its end. Tokens are not limited here."""
    response.headers["openai-version"] = VERSION
    if (began_s := g.get("began_s")) is not None:
        response.headers["openai-processing-ms"] = str(round((time.monotonic() - began_s) * 1000))
    standings = told()
    for unit in _UNITS:
        if (near := nearest(standings, unit)) is not None:
            response.headers[f"x-ratelimit-limit-{unit}"] = str(near.limit)
            response.headers[f"x-ratelimit-remaining-{unit}"] = str(near.left)
            response.headers[f"x-ratelimit-reset-{unit}"] = duration(near.reset_s)


def duration(seconds: int) -> str:
    """Seconds as OpenAI writes them: 1s, 6m0s, 1h0m0s."""
    minutes, rest_s = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"


DIALECT = Dialect("openai", ("/v1/",), say, finish=finish)
