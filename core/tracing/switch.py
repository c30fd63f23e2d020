"""Turning tracing on for a process, by the standard variables of OpenTelemetry.

It is called after a fork and after gevent's patches, because the exporter has a thread of its own (a greenlet where
threads are patched). Exporting is never waited for: spans go into a bounded queue, and what does not fit is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from core import tracing
from core.settings import SettingsError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
PROTOCOL = "http/protobuf"

# What else operators are told of is read by the SDK itself, as all of the standard is: OTEL_EXPORTER_OTLP_HEADERS,
# OTEL_EXPORTER_OTLP_COMPRESSION, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_TRACES_SAMPLER,
# OTEL_TRACES_SAMPLER_ARG, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_SCHEDULE_DELAY,
# OTEL_BSP_MAX_QUEUE_SIZE and OTEL_BSP_MAX_EXPORT_BATCH_SIZE.


def start(service: str, environ: Mapping[str, str], *, wanted: bool | None) -> bool:
    """Trace this process if the operator wants it; return whether it does. Raises SettingsError.

    ``service``: its ``service.name``, unless the environment has another one. ``environ``: the variables ``OTEL_*`` are
    read from it. ``wanted``: on or off; None is on where the environment says where to export to.
    """
    if not is_on(environ, wanted=wanted):
        return False
    if faults := list(_faults(environ)):
        raise SettingsError("bad settings: " + "; ".join(faults))
    # The SDK reads its variables from the process: those of a .env file are not there yet, and a blank one is none.
    for name, value in environ.items():
        if name.startswith("OTEL_"):
            os.environ[name] = value
            if not value.strip():
                del os.environ[name]
    from core.tracing.export import make_recorder

    try:
        tracing.record_with(make_recorder(service, environ))
    except ValueError as error:
        raise SettingsError(f"bad settings: OTEL_*: {error}") from None
    return True


def is_on(environ: Mapping[str, str], *, wanted: bool | None) -> bool:
    """Whether a process with this environment traces."""
    said = {name: environ.get(name, "").strip() for name in (*ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER")}
    if said["OTEL_SDK_DISABLED"].lower() == "true" or said["OTEL_TRACES_EXPORTER"] == "none":
        return False
    return any(said[name] for name in ENDPOINTS) if wanted is None else wanted


def _faults(environ: Mapping[str, str]) -> Iterator[str]:
    """What would export nothing and say nothing, a sentence each, without the values."""
    for name in ENDPOINTS:
        if (value := environ.get(name, "").strip()) and not value.startswith(("http://", "https://")):
            yield f"{name}: it must begin with http:// or https://"
    for name in PROTOCOLS:
        if environ.get(name, "").strip() not in ("", PROTOCOL):
            yield f"{name}: only {PROTOCOL} is spoken (a collector has it at port 4318)"
    if environ.get("OTEL_TRACES_EXPORTER", "").strip() not in ("", "otlp", "none"):
        yield "OTEL_TRACES_EXPORTER: it must be otlp or none"
