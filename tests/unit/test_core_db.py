"""A statement as psql takes it, and the driver's form that is derived from it."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from core.db import Statement, is_away, make_engine


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("SELECT :a, :b_c", b"SELECT $1, $2"),
        ("SELECT x::text, CAST(:x AS text)", b"SELECT x::text, CAST($1 AS text)"),
        ("SELECT :x::text", b"SELECT $1::text"),
        ("SELECT '{}'::jsonb ->> 'a'", b"SELECT '{}'::jsonb ->> 'a'"),
        ("SELECT a[1:2] FROM t WHERE b LIKE 'x%'", b"SELECT a[1:2] FROM t WHERE b LIKE 'x%'"),
        ("SELECT 7 % :n", b"SELECT 7 % $1"),
        ("SELECT 1 -- of :none, they're 100 %\nFROM t", b"SELECT 1 \nFROM t"),
        ("SELECT :b, :a, :b", b"SELECT $1, $2, $1"),
    ],
)
def test_the_servers_form_follows_from_psqls(sql: str, query: bytes) -> None:
    statement = Statement(sql)
    assert statement.query == query
    assert statement.sql == sql


def test_values_are_ordered_as_the_statement_numbers_them() -> None:
    statement = Statement("SELECT :b, :a, :b")
    assert statement.ordered({"a": 1, "b": 2, "unused": 3}) == [2, 1]
    with pytest.raises(KeyError):
        statement.ordered({"a": 1})


def test_parameters_are_those_outside_of_comments_and_casts() -> None:
    assert Statement("-- :not_me\nSELECT :me, x::not_me, :me_too::text").parameters == {"me", "me_too"}


def test_an_error_that_is_the_statements_own_does_not_say_that_the_database_is_away() -> None:
    assert not is_away(DBAPIError("SELECT", {}, ValueError("mine")))


def test_no_parameter_of_a_statement_is_quoted_in_an_error() -> None:
    """A statement may be, a prompt never."""
    engine = make_engine("postgresql+psycopg://user:secret@localhost/none")
    assert engine.hide_parameters
    assert "secret" not in repr(engine.url)
