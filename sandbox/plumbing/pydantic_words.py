"""What the upstreams that are built with FastAPI say of a field that does not fit: pydantic's words."""

from collections.abc import Mapping

from sandbox.plumbing.validation import Problem, load_yaml

_SAID: Mapping[str, tuple[str, str]] = load_yaml(__file__, "pydantic_words.yaml")


def said_of(problem: Problem) -> tuple[str, str]:
    """Pydantic's type of the error, and its text. A field whose schema has ``x-link`` is a URL."""
    limit = problem.limit
    if problem.keyword == "type":
        limit = limit[0] if isinstance(limit, list) else limit
    keyword = "fraction" if limit == "integer" and isinstance(problem.value, float) else problem.keyword
    names = (f"link {keyword}" if "x-link" in problem.schema else "", f"{keyword} {limit}", keyword, "own")
    kind, text = next(_SAID[name] for name in names if name in _SAID)
    listed = " or ".join(", ".join(f"'{word}'" for word in limit).rsplit(", ", 1)) if keyword == "enum" else ""
    return kind, text.format(limit=limit, listed=listed, message=problem.message)
