"""Requests checked against JSON Schema; each emulator words the problems found in its own way.

    FORMS = load_yaml(__file__, "schemas.yaml")
    GENERATE = Schema(FORMS["generate"])

    for problem in GENERATE.problems(document):
        match problem.keyword:
            case "required":             raise errors.missing(problem.field)
            case "additionalProperties": raise errors.unknown_parameter(problem.field)
            case "type":                 raise errors.wrong_type(problem.field, problem.limit, json_type(problem.value))
            case "maximum":              raise errors.too_much(problem.field, problem.limit, problem.value)

The dialect is JSON Schema 2020-12, stricter in one point: 1.0 is no integer. A check that no keyword can express is a
keyword of the emulator's own: ``Schema(document, checks={"image": image_fault})`` calls ``image_fault(limit, value)``
where a schema says ``image: limit``, and what it returns, if anything, is the problem's ``message``. Annotations such
as ``title`` or ``x-word`` are read from ``problem.schema``. ``unsupported: true`` marks a property that is
known but never taken, say by one of several models.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

Check = Callable[[Any, Any], str | None]
Order = Literal["schema", "request"]
NAMING = ("required", "additionalProperties")  # keywords whose problems are about one property by name
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is seven times faster
_INTEGER = re.compile(r"[+-]?\d{1,30}")
_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request.

    ``path`` leads to it (of a missing or unknown property too). ``limit`` is what the ``keyword`` says in the schema,
    ``schema`` the subschema that holds it, ``value`` what came: None for a missing property. ``message`` comes from the
    emulator's own check, else from jsonschema.
    """

    path: tuple[str | int, ...]
    keyword: str
    value: Any
    limit: Any
    schema: Mapping[str, Any]
    message: str

    @property
    def field(self) -> str:
        """The path as ``images[0].url``."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path).removeprefix(".")

    @property
    def top(self) -> str:
        """The property of the request in which the problem is; empty where the request itself is of a wrong type."""
        return str(self.path[0]) if self.path else ""


class Schema:
    """A JSON Schema, compiled once. That it is one is checked by a test, for it takes longer than all else here.

    ``first`` names the keywords whose problems come before all others, in that order. The others follow their
    property's place in the schema (``by="schema"``) or in the request (``by="request"``).
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        *,
        checks: Mapping[str, Check] | None = None,
        first: tuple[str, ...] = NAMING,
        by: Order = "schema",
    ) -> None:
        self.document = document
        self._first, self._by = first, by
        self._validator = _validator_class({"unsupported": _never, **(checks or {})})(document)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The top-level properties and their schemas."""
        found: Mapping[str, Any] = self.document.get("properties", {})
        return found

    def problems(self, instance: Any) -> list[Problem]:
        """Everything wrong with a request, at most one problem for each path: the first keyword that fails, as written.

        A ``$ref`` is followed; inside ``anyOf`` and ``oneOf`` only the whole alternative is reported.
        """
        found: dict[tuple[str | int, ...], Problem] = {}
        for error in self._validator.iter_errors(instance):
            for problem in _problems_of(error):
                found.setdefault(problem.path, problem)
        return sorted(found.values(), key=lambda problem: self._rank(problem, instance))

    def problem(self, instance: Any) -> Problem | None:
        """The first of ``problems``, if any."""
        return next(iter(self.problems(instance)), None)

    def accepts(self, instance: Any) -> bool:
        """Whether there is no problem."""
        return bool(self._validator.is_valid(instance))

    def filled(self, instance: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the schema's top-level defaults where it says nothing."""
        defaults = {name: part["default"] for name, part in self.properties.items() if "default" in part}
        return {**defaults, **instance}

    def typed(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The texts of a form as the types of the schema; a text that is none of that type stays as it is."""
        return {name: _typed(text, self.properties.get(name, {}).get("type")) for name, text in form.items()}

    def _rank(self, problem: Problem, instance: Any) -> tuple[int, int]:
        first = self._first.index(problem.keyword) if problem.keyword in self._first else len(self._first)
        if problem.keyword == "required":
            return first, _place(problem.top, self.document.get("required", ()))
        if problem.keyword == "additionalProperties" or self._by == "request":
            return first, _place(problem.top, instance if isinstance(instance, Mapping) else ())
        return first, _place(problem.top, self.properties)


def closed(properties: Mapping[str, Any], required: Iterable[str] = (), *, free: Iterable[str] = ()) -> dict[str, Any]:
    """The schema of an object with these properties, those of ``free`` with any value, and no others."""
    known = {**properties, **{name: {} for name in free}}
    document = {"type": "object", "additionalProperties": False, "properties": known}
    return {**document, "required": list(required)} if required else document


def load_yaml(module_file: str, name: str) -> Any:
    """A data file next to a module, given the module's ``__file__``."""
    return yaml.load(Path(module_file).with_name(name).read_bytes(), Loader=_LOADER)  # noqa: S506 - both are safe


def json_type(value: Any) -> str:
    """JSON's word for the type of a value: integer for a whole number, number for any other."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _typed(text: str, wanted: object) -> Any:
    if wanted == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if wanted == "number" and _NUMBER.fullmatch(text):
        return float(text)
    return _BOOLEANS.get(text.lower(), text) if wanted == "boolean" else text


def _place(name: str, names: Any) -> int:
    known = list(names)
    return known.index(name) if name in known else len(known)


def _problems_of(error: ValidationError) -> Iterator[Problem]:
    """One problem; for unknown properties one each, and for a missing one with its name in the path."""
    path, keyword = tuple(error.absolute_path), str(error.validator)
    value, limit, schema = _facts(error)
    if keyword == "required":
        # jsonschema reports each missing property by itself, but names it only in the message.
        missing = next(name for name in limit if error.message.startswith(f"{name!r} "))
        yield Problem((*path, missing), keyword, None, limit, schema, error.message)
    elif keyword == "additionalProperties" and limit is False:
        for name in value:
            if not _is_known(name, schema):
                yield Problem((*path, name), keyword, value[name], limit, schema, error.message)
    else:
        yield Problem(path, keyword, value, limit, schema, error.message)


def _facts(error: ValidationError) -> tuple[Any, Any, Mapping[str, Any]]:
    schema: Any = error.schema
    return error.instance, error.validator_value, schema if isinstance(schema, Mapping) else {}


def _is_known(name: str, schema: Mapping[str, Any]) -> bool:
    return name in schema.get("properties", {}) or any(re.search(p, name) for p in schema.get("patternProperties", {}))


def _never(limit: Any, _value: Any) -> str | None:
    return "is not supported" if limit else None


def _validator_class(checks: Mapping[str, Check]) -> type[Draft202012Validator]:
    def keyword(check: Check) -> Callable[..., Iterator[ValidationError]]:
        def run(_validator: object, limit: Any, value: Any, _schema: object) -> Iterator[ValidationError]:
            if (message := check(limit, value)) is not None:
                yield ValidationError(message)

        return run

    strict = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _checker, value: type(value) is int)
    keywords = {name: keyword(check) for name, check in checks.items()}
    made: type[Draft202012Validator] = extend(Draft202012Validator, keywords, type_checker=strict)  # type: ignore[no-untyped-call]
    return made
