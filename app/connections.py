"""Lending a database connection to one function of the layers below: a read, or a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from core.db import Database

P = ParamSpec("P")
T = TypeVar("T")


class Connections:
    """Both methods raise what the function raises, and DatabaseAwayError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def autocommit(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns; each of its statements is a transaction of its own."""
        with self._database.autocommit() as connection:
            return function(connection, *args, **kwargs)

    def transaction(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, in one transaction; it is committed on return: publish nudges then."""
        with self._database.transaction() as connection:
            return function(connection, *args, **kwargs)
