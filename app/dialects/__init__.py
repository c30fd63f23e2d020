"""Other services' APIs: each translates to and from the same job, and nothing else.

A dialect lists its blueprints and how it speaks here, and ``app/factory.py`` installs them.
"""

from __future__ import annotations

from flask import Blueprint

from app.dialects import replicate
from app.http.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (replicate.DIALECT,)
BLUEPRINTS: tuple[Blueprint, ...] = replicate.BLUEPRINTS
