"""How many files and connections this process may have open at once."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)


def raise_limit(*, needed: int = 0) -> int:
    """Raise RLIMIT_NOFILE to its hard limit. Returns what holds then; warns where that is below ``needed``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a system without a hard limit may refuse "infinite"
        log.debug("open_files_limit_stays", limit=soft, error=type(error).__name__)
        hard = soft
    else:
        log.debug("open_files_limit_raised", before=soft, limit=hard)
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning("open_files_limit_is_low", limit=hard, needed=needed)
    return hard
