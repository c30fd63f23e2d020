"""Other services' APIs: each translates to and from the same job, and nothing else.

A dialect lists its blueprints and how it speaks here, and ``app/factory.py`` installs them.
"""

from __future__ import annotations

from flask import Blueprint

from app.dialects.fal import keys as fal_keys
from app.dialects.fal import queue as fal_queue
from app.dialects.fal import run as fal_run
from app.dialects.fal.dialect import FAL
from app.http.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (FAL,)
BLUEPRINTS: tuple[Blueprint, ...] = (fal_queue.bp, fal_run.bp, fal_keys.bp)
