"""gunicorn's own lines through our chain, in the format of every other line."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class ChainedLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """Leaves the handlers to the root logger, which ``core.logging`` has configured."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
