"""The requests and answers of the native API; ``/openapi.json`` is made of them.

Requests are validated by these models. Answers are plain dicts built by app/shapes/render.py, because the status route
is hot; tests validate every rendered answer by its model here.
"""
