"""Building the Flask application: caps, guard, errors, routes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask.ctx import RequestContext
from werkzeug.middleware.proxy_fix import ProxyFix

from app.api import (
    admin,
    admin_abuse,
    admin_accounts,
    admin_keys,
    admin_tasks,
    batches,
    docs_page,
    events,
    health,
    hooks,
    images,
    metrics,
    models,
    openapi,
    prompts,
    provider_keys,
    providers,
    quota,
    rerun,
    submit,
    tasks,
    uploads,
    usage,
    webhooks,
)
from app.dialects import registered
from app.dialects.openai.calls import OPENAI, OpenAiOptions
from app.dialects.replicate.names import UnknownVersionError, names_of
from app.http import access, auth, cors, dialect, errors, limits, links, metering, traces
from app.http.endpoint import check_described
from app.http.held import HOLD, Hold
from app.http.readiness import Readiness
from app.http.strict_request import StrictRequest
from app.services import EXTENSION, Services
from app.shapes.render import Renderer
from core import tracing
from core.settings import Settings, SettingsError
from jobs.submission.building import cache_terms

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_FORM_FIELD_BYTES = 256 * 1024
MAX_FORM_PARTS = 64
ROUTES = "darkroom_routes"
MAX_KNOWN_ROUTES, MAX_KNOWN_PATH = 4096, 200


class _Routed(RequestContext):
    """Remembers the routes of paths asked for lately: a client that polls asks for one path again and again."""

    def match_request(self) -> None:
        known: dict[tuple[str, str], Any] = self.app.extensions[ROUTES]
        asked = (self.request.method, self.request.path)
        found = known.get(asked)
        if found is None:
            super().match_request()
            if self.request.url_rule is not None and len(asked[1]) <= MAX_KNOWN_PATH:
                if len(known) >= MAX_KNOWN_ROUTES:
                    known.clear()
                known[asked] = (self.request.url_rule, self.request.view_args or {})
            return
        self.request.url_rule, arguments = found
        self.request.view_args = dict(arguments)


class Edge(Flask):
    """Skips the check of every hook for being a coroutine, at every request: none of ours is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def request_context(self, environ: WSGIEnvironment) -> RequestContext:
        return _Routed(self, environ)


def build(settings: Settings, services: Services) -> Flask:
    """The application with every route. Raises LookupError for a route without a description, SettingsError."""
    app = Edge("app", template_folder="web/templates", static_folder="web/static", static_url_path="/static")
    app.request_class = StrictRequest
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_request_bytes,
        MAX_BATCH_FILE_BYTES=settings.max_batch_file_bytes,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_FIELD_BYTES,
        MAX_FORM_PARTS=MAX_FORM_PARTS,
        PUBLISH_WINDOW=settings.publish_window,
        RESULT_CACHE=cache_terms(settings),
        LITELLM_COST_HEADER=settings.litellm_cost_header,
        REPLICATE_MODEL_ID=_replicate_model(settings, services),
        PROPAGATE_EXCEPTIONS=False,
    )
    # A trailing slash is another address; redirects would turn a POST into a GET.
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    base = (settings.public_url or "").rstrip("/")
    app.extensions[EXTENSION] = services
    app.extensions[ROUTES] = {}
    app.extensions[links.EXTENSION] = links.links_of(settings, services.signer)
    renderer = Renderer(services.signer, base, services.wait, services.waiting, settings.max_wait_s)
    app.extensions["darkroom_renderer"] = renderer
    services.following.show_with(lambda: renderer)
    app.extensions["darkroom_readiness"] = Readiness(services.checks)
    app.extensions[HOLD] = Hold(
        *(settings.hold_quiet_s, settings.hold_beat_s, settings.hold_most_s), stopping=lambda: services.waits.stopping
    )
    app.extensions[OPENAI] = OpenAiOptions(settings.openai_response_format, settings.keep_images_days)
    dialect.install(app, registered.DIALECTS)
    errors.install(app)
    limits.install(app)
    cors.install(app, _origins(settings))
    if settings.access_log:
        access.install(app)  # before the guard: what comes after an answer runs in reverse
    metering.install(app)
    guard = auth.Guard(services.authenticate, services.knows_key, services.limits, services.signer, services.tallies)
    auth.install(app, guard)
    for module in (
        *(submit, tasks, batches, rerun, events, images, uploads, models, providers, provider_keys, quota, usage),
        *(prompts, webhooks, admin, admin_abuse, admin_accounts, admin_keys, admin_tasks),
        *(metrics, hooks, health, docs_page),
    ):
        app.register_blueprint(module.bp)
    for blueprint in registered.BLUEPRINTS:
        app.register_blueprint(blueprint)
    check_described(app)
    if recorder := tracing.recording():
        traces.install(app, recorder)
    app.extensions["darkroom_openapi"] = partial(openapi.document, app, public_url=base)
    if settings.trusted_proxies:
        _trust_proxies(app, settings.trusted_proxies)
    return app


def _replicate_model(settings: Settings, services: Services) -> str | None:
    """The setting, once it is known to name a model."""
    try:
        return settings.replicate_model and names_of(services.catalog).version(settings.replicate_model).model.id
    except UnknownVersionError as error:
        raise SettingsError(f"REPLICATE_MODEL_ID: {error.detail}") from None


def _origins(settings: Settings) -> tuple[str, ...]:
    try:
        return cors.origins_of(settings.cors_origins)
    except ValueError as error:
        raise SettingsError(f"DARKROOM_CORS_ORIGINS: {error}") from None


def _trust_proxies(app: Flask, count: int) -> None:
    """Trust exactly so many proxies about the client's address and our own scheme and host."""
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
