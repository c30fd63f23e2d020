"""Other services' APIs: each translates to and from the same job, and nothing else.

A dialect lists its blueprints and how it speaks here, and ``app/factory.py`` installs them.
"""

from __future__ import annotations

from flask import Blueprint

from app.dialects.replicate import account as replicate_account
from app.dialects.replicate import models as replicate_models
from app.dialects.replicate import predictions as replicate_predictions
from app.dialects.replicate.dialect import REPLICATE
from app.http.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (REPLICATE,)
BLUEPRINTS: tuple[Blueprint, ...] = (replicate_predictions.bp, replicate_models.bp, replicate_account.bp)
