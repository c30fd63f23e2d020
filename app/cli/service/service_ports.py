"""The ports of the service on one machine: which it wants, and whether it can have them."""

from __future__ import annotations

from app.cli.service.programs import LOOPBACK
from core.embedded import ports
from core.embedded.faults import EmbeddedError
from core.settings import Settings


def with_free_ports(settings: Settings) -> Settings:
    """The settings with ports that are free now. Raises EmbeddedError."""
    names = ("port", "flower_port_set", "sandbox_port_set", "postgres_port_set", "redis_port_set")
    return settings.model_copy(update=dict(zip(names, ports.free_ports(len(names)), strict=True)))


def check_ports(settings: Settings, *, sandbox: bool) -> None:
    """Raises EmbeddedError naming the variable that moves the first port we cannot have."""
    wanted = [
        ("DARKROOM_PORT", settings.host, settings.port, True),
        ("DARKROOM_FLOWER_PORT", LOOPBACK, settings.flower_port, True),
        ("DARKROOM_SANDBOX_PORT", LOOPBACK, settings.sandbox_port, sandbox),
        ("DARKROOM_POSTGRES_PORT", LOOPBACK, settings.postgres_port, settings.database_url_set is None),
        ("DARKROOM_METRICS_PORT", settings.metrics_host, settings.metrics_port or 0, settings.metrics_port is not None),
        ("DARKROOM_REDIS_PORT", LOOPBACK, settings.redis_port, settings.redis_url_set is None),
    ]
    seen: dict[int, str] = {}
    for variable, host, port, needed in wanted:
        if not needed:
            continue
        reason = f"{seen[port]} is the same" if port in seen else ports.why_not(port, host)
        if reason is not None:
            raise EmbeddedError(f"cannot listen on {host} port {port} ({reason}): set {variable} to another")
        seen[port] = variable
