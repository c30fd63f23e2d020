"""Other services' APIs: each translates to and from the same job, and nothing else.

A dialect lists its blueprints and how it speaks here, and ``app/factory.py`` installs them.
"""

from __future__ import annotations

from flask import Blueprint

from app.dialects.openai import chat as openai_chat
from app.dialects.openai import models as openai_models
from app.dialects.openai.dialect import DIALECT as OPENAI
from app.http.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (OPENAI,)
BLUEPRINTS: tuple[Blueprint, ...] = (openai_models.bp, openai_chat.bp)
