"""The language of price formulas: a small, bounded part of JSONata.

Only expressions without loops are taken: arithmetic, comparisons, conditions and a few functions of numbers and
texts. A vendor wrote the formula and the web process evaluates it, so nothing in it may run long: no lambda, range,
regular expression, sorting or joining of texts is read at all, and what is left has a bound in time and depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from jsonata.jexception import JException
from jsonata.jsonata import Jsonata
from jsonata.parser import Parser

MAX_CHARS: Final = 4_000
# Of the clock on the wall: a process that waits for its processor meanwhile must not lose the price of an order.
MAX_MS: Final = 2_000
MAX_DEPTH: Final = 100
TOTAL: Final = "total_price"
BASE: Final = "base_price"

_FUNCTIONS: Final = frozenset(
    {"abs", "boolean", "ceil", "contains", "count", "exists", "floor", "length", "lowercase", "max", "min", "not"}
    | {"number", "round", "string", "sum", "trim", "uppercase"}
)
_OPERATORS: Final = frozenset({"+", "-", "*", "/", "%", "=", "!=", "<", "<=", ">", ">=", "and", "or", "in"})
_UNARY: Final = frozenset({"-", "[", "{"})
_PLAIN: Final = frozenset({"string", "number", "value", "name", "path", "condition", "block", "bind", "variable"})
# What a part of an expression may have that makes it more than its type says.
_MORE: Final = frozenset({"predicate", "stages", "group", "focus", "index", "tuple", "ancestor"})


class FormulaError(ValueError):
    """A formula that cannot be read, or gives no price; the message says why in words for the operator."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula that was read. ``names`` are the input fields that it uses, :data:`BASE` not among them."""

    text: str
    names: frozenset[str]
    _compiled: Jsonata

    def value(self, inputs: Mapping[str, Any]) -> float:
        """The number that the formula gives for these inputs, :data:`BASE` among them: finite, not below zero.

        Raises: FormulaError, after :data:`MAX_MS` at the latest.
        """
        try:
            found = self._evaluated(inputs)
        except RecursionError:
            raise FormulaError("the formula is nested too deeply") from None
        except Exception as error:  # whatever the evaluator trips over, there is no price
            raise FormulaError(f"the formula fails: {_words(error)}") from error
        number = found.get(TOTAL) if isinstance(found, dict) else found
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise FormulaError("the formula gives no number for these inputs")
        if not math.isfinite(number) or number < 0:
            raise FormulaError("the formula gives no price: it is below zero, or not finite")
        return number

    def _evaluated(self, inputs: Mapping[str, Any]) -> Any:
        # A frame for each evaluation: its clock starts now, and two orders never share one.
        frame = self._compiled.create_frame(self._compiled.environment)
        frame.set_runtime_bounds(MAX_MS, MAX_DEPTH)
        return self._compiled.evaluate(dict(inputs), frame)


@lru_cache(maxsize=4096)
def read(text: str) -> Formula:
    """The formula that a text says; each text is parsed once in a process.

    Raises: FormulaError naming what is not understood.
    """
    compiled = compile_any(text)
    names: set[str] = set()
    for symbol in _symbols(compiled.ast):
        _check(symbol)
        if symbol.type == "name":
            names.add(str(symbol.value))
    return Formula(text, frozenset(names - {BASE}), compiled)


def compile_any(text: str) -> Jsonata:
    """A JSONata expression of any kind. Raises: FormulaError where it is none."""
    if len(text) > MAX_CHARS:
        raise FormulaError(f"the formula is longer than {MAX_CHARS} characters")
    try:
        return Jsonata(text)
    except RecursionError:
        raise FormulaError("the formula is nested too deeply") from None
    except Exception as error:  # the parser trips over broken text in many ways
        raise FormulaError(f"the formula is not JSONata: {_words(error)}") from error


def _check(symbol: Any) -> None:
    """Raises: FormulaError for a part that this language does not have."""
    more = [name for name in _MORE if getattr(symbol, name, None)]
    if more:
        raise FormulaError(f"the formula uses {more[0]}, which is not taken here")
    match symbol.type:
        case "binary" if symbol.value in _OPERATORS:
            return
        case "unary" if symbol.value in _UNARY:
            return
        case "function":
            _check_function(symbol)
        case kind if kind not in _PLAIN:
            raise FormulaError(f"the formula uses {kind} {str(symbol.value)[:20]}, which is not taken here")


def _check_function(symbol: Any) -> None:
    procedure = symbol.procedure
    name = str(procedure.value)
    if procedure.type == "path":
        name = str(procedure.steps[-1].value)
        raise FormulaError(f"the formula needs {name}(), which is not known when an order is priced")
    if procedure.type != "variable" or name not in _FUNCTIONS:
        raise FormulaError(f"the formula uses ${name}(), which is not taken here")


def _symbols(found: object) -> Iterator[Any]:
    """Every part of an expression, the outermost first."""
    waiting: list[object] = [found]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Parser.Symbol):
            yield each
            waiting += [value for name, value in vars(each).items() if name != "_outer_instance"]
        elif isinstance(each, list | tuple):
            waiting += each


def _words(error: Exception) -> str:
    if isinstance(error, JException):
        return str(error)[:200]
    return type(error).__name__
