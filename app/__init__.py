"""The HTTP edge: ``create_app`` builds it, ``app.wsgi`` serves it; ``app.cli`` is the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.services import Services
    from core.settings import Settings


def create_app(settings: Settings, services: Services) -> Flask:
    """The Flask application over these services. Opens no connection and starts no thread."""
    # Here, because this package is also the command line's, which must not load Flask to print a help text.
    from app.factory import build

    return build(settings, services)
