"""Replicate's HTTP API: predictions, models, files' links in inputs, streams and callbacks."""

from __future__ import annotations

from app.dialects.replicate import accounts, models, predictions
from app.dialects.replicate.dialect import DIALECT

__all__ = ["BLUEPRINTS", "DIALECT"]

BLUEPRINTS = (predictions.bp, models.bp, accounts.bp)
