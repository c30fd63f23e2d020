"""The web whose statements are counted: ``gunicorn -c python:app.gunicorn_conf bench.counted_web:app``."""

from app.wsgi import app
from bench.counted import count_statements

__all__ = ["app"]

count_statements()
