"""The WSGI application: every emulator under its prefix, and the control endpoints."""

from functools import partial

from flask import Flask, Response, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from sandbox import control, recorder
from sandbox.emulators import Emulator, Wrong, all_emulators, environ
from sandbox.settings import Settings
from sandbox.state import EXTENSION, Clock, State

BODY_MAX_BYTES = 256 * 2**20


class PlainJson(DefaultJSONProvider):
    """Keys in the order written and text as UTF-8, as the real servers send them."""

    sort_keys = False
    ensure_ascii = False


def create_app(settings: Settings | None = None, *, clock: Clock | None = None) -> Flask:
    """A sandbox of its own; several may live in one process, sharing nothing."""
    flask = Flask("sandbox", static_folder=None)
    flask.config.update(MAX_CONTENT_LENGTH=BODY_MAX_BYTES, MAX_FORM_MEMORY_SIZE=BODY_MAX_BYTES)
    flask.json = PlainJson(flask)
    # A view that cuts its connection raises through: Flask must not make a polite 500 of it.
    flask.config["PROPAGATE_EXCEPTIONS"] = True
    sandbox_state = State(settings or Settings.from_env(), clock or Clock())
    flask.extensions[EXTENSION] = sandbox_state
    emulators = all_emulators()
    for emulator in emulators:
        sandbox_state.stores[emulator.name] = emulator.new_store(sandbox_state)
        flask.register_blueprint(emulator.blueprint, url_prefix=emulator.prefix)
    flask.register_blueprint(control.bp)
    flask.register_error_handler(HTTPException, partial(_unrouted, emulators))
    flask.add_url_rule("/", "index", partial(_index, emulators))
    return flask


def _index(emulators: tuple[Emulator, ...]) -> Response:
    """For the person who opens the port in a browser."""
    return jsonify(
        sandbox={emulator.name: request.host_url.rstrip("/") + emulator.prefix for emulator in emulators},
        environ=environ(request.host_url.rstrip("/")),
        control="/control",
    )


def _unrouted(emulators: tuple[Emulator, ...], error: HTTPException) -> ResponseReturnValue:
    """404 and 405 in the words of the emulator whose path was meant."""
    if request.routing_exception is not None:
        recorder.note_stray(error.code or 500)
    for emulator in emulators:
        if request.path.startswith(f"{emulator.prefix}/"):
            return emulator.unrouted(
                Wrong(error.code or 500, request.method, request.path.removeprefix(emulator.prefix))
            )
    return jsonify(error=error.name), error.code or 500


app = create_app()
