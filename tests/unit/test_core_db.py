"""A statement as psql takes it, and the driver's form that is derived from it."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from core.db import Statement, is_away, make_engine


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("SELECT :a, :b_c", b"SELECT %(a)s, %(b_c)s"),
        ("SELECT x::text, CAST(:x AS text)", b"SELECT x::text, CAST(%(x)s AS text)"),
        ("SELECT :x::text", b"SELECT %(x)s::text"),
        ("SELECT '{}'::jsonb ->> 'a'", b"SELECT '{}'::jsonb ->> 'a'"),
        ("SELECT a[1:2] FROM t WHERE b LIKE 'x%'", b"SELECT a[1:2] FROM t WHERE b LIKE 'x%%'"),
        ("SELECT 7 % :n", b"SELECT 7 %% %(n)s"),
        ("SELECT 1 -- of :none, they're 100 %\nFROM t", b"SELECT 1 \nFROM t"),
        ("SELECT :a, :a", b"SELECT %(a)s, %(a)s"),
    ],
)
def test_the_drivers_form_follows_from_psqls(sql: str, query: bytes) -> None:
    statement = Statement(sql)
    assert statement.query == query
    assert statement.sql == sql


def test_parameters_are_those_outside_of_comments_and_casts() -> None:
    assert Statement("-- :not_me\nSELECT :me, x::not_me, :me_too::text").parameters == {"me", "me_too"}


def test_an_error_that_is_the_statements_own_does_not_say_that_the_database_is_away() -> None:
    assert not is_away(DBAPIError("SELECT", {}, ValueError("mine")))


def test_no_parameter_of_a_statement_is_quoted_in_an_error() -> None:
    """A statement may be, a prompt never."""
    engine = make_engine("postgresql+psycopg://user:secret@localhost/none")
    assert engine.hide_parameters
    assert "secret" not in repr(engine.url)
