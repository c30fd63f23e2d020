"""``python -m workers.flower``: Flower, with our logging, port, password and columns (``command.py``)."""

# ruff: noqa: E402
from core import logging

logging.configure_early()

from workers.flower.command import main

if __name__ == "__main__":
    main()
