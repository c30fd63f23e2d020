"""Every dialect: how it speaks, and its routes. ``app/factory.py`` installs them."""

from __future__ import annotations

from flask import Blueprint

from app.dialects import fal_storage, files
from app.dialects.chatgpt2api import routes as chatgpt2api
from app.dialects.chatgpt2api.words import DIALECT as CHATGPT2API
from app.dialects.fal import keys as fal_keys
from app.dialects.fal import queue as fal_queue
from app.dialects.fal import run as fal_run
from app.dialects.fal.dialect import FAL
from app.dialects.generation import routes as generation
from app.dialects.generation.words import DIALECT as GENERATION
from app.dialects.image_generate import routes as image_generate
from app.dialects.image_generate.words import DIALECT as IMAGE_GENERATE
from app.dialects.openai import batches as openai_batches
from app.dialects.openai import chat as openai_chat
from app.dialects.openai import images as openai_images
from app.dialects.openai import models as openai_models
from app.dialects.openai.dialect import DIALECT as OPENAI
from app.dialects.replicate import account as replicate_account
from app.dialects.replicate import models as replicate_models
from app.dialects.replicate import predictions as replicate_predictions
from app.dialects.replicate.dialect import REPLICATE
from app.http.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (
    *(OPENAI, REPLICATE, FAL, files.DIALECT, fal_storage.DIALECT),
    *(IMAGE_GENERATE, GENERATION, CHATGPT2API),
)
BLUEPRINTS: tuple[Blueprint, ...] = (
    *(openai_images.bp, openai_models.bp, openai_chat.bp, openai_batches.bp),
    *(replicate_predictions.bp, replicate_models.bp, replicate_account.bp),
    *(fal_queue.bp, fal_run.bp, fal_keys.bp),
    *(files.bp, fal_storage.bp),
    *(image_generate.bp, generation.bp, chatgpt2api.bp),
)
