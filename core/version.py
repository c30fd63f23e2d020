"""The version of Darkroom, written here and nowhere else: ``pyproject.toml`` reads it when a package is built.

A clone runs without being installed, so there is no package metadata to ask.
"""

from typing import Final

VERSION: Final = "0.1.0"
