"""Who calls the Replicate emulator, by which name it was reached, and what it keeps."""

from flask import request

from sandbox.emulators import keys
from sandbox.emulators.replicate import errors
from sandbox.emulators.replicate.errors import Problem
from sandbox.emulators.replicate.store import ReplicateStore
from sandbox.plumbing.calls import Calls
from sandbox.state import current_state

NAME = "replicate"
PREFIX = "/replicate"
CALLS = Calls(NAME, errors.for_fault)


def key_of_caller() -> str:
    """The token by ``Bearer`` or, as in older examples, ``Token``. Raises Problem."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() not in ("bearer", "token") or not token or token == keys.BAD_KEY:
        raise Problem(401)
    return token


def owner_of_caller() -> str:
    """Whose predictions and files these are. Raises Problem."""
    return keys.owner_of(key_of_caller())


def root_url() -> str:
    """The host as the caller calls it, with our prefix."""
    return f"{request.host_url.rstrip('/')}{PREFIX}"


def base_url() -> str:
    """Of the API."""
    return f"{root_url()}/v1"


def store() -> ReplicateStore:
    """Predictions and files."""
    return current_state().store(NAME, ReplicateStore)
