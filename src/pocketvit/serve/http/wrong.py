"""What was wrong with a request, in the words of the rest: not those of pydantic, which finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from pocketvit.serve.http.refusal import Refusal

MOST = 5
"""Faults that are told of one request."""
Fault = dict[str, Any]
_PLAIN: dict[str, Callable[[Fault], str]] = {
    "missing": lambda fault: "is missing",
    "greater_than_equal": lambda fault: f"must be at least {_bound(fault, 'ge')}, not {_given(fault)}",
    "less_than_equal": lambda fault: f"must be at most {_bound(fault, 'le')}, not {_given(fault)}",
    "int_parsing": lambda fault: f"must be a whole number, not {_given(fault)}",
    "int_parsing_size": lambda fault: f"must be a whole number, not {_given(fault)}",
    "int_from_float": lambda fault: f"must be a whole number, not {_given(fault)}",
    "float_parsing": lambda fault: f"must be a number, not {_given(fault)}",
    "literal_error": lambda fault: f"must be {fault['ctx']['expected'].replace(chr(39), '')}, not {_given(fault)}",
    "string_too_long": lambda fault: f"may have at most {fault['ctx']['max_length']} characters",
}


def wrong_of(error: RequestValidationError) -> Refusal:
    """The refusal (400) of a request whose parameters or headers are not as they should be."""
    return Refusal(400, sentence(error.errors()))


def sentence(faults: Sequence[Fault]) -> str:
    """Faults as pydantic lists them, in one sentence that names each parameter."""
    told = [f"{_name(fault)} {_PLAIN.get(fault['type'], _other)(fault)}" for fault in faults[:MOST]]
    return "; ".join(told) + "."


def _name(fault: Fault) -> str:
    """Of the parameter, without where it stands (query, path, header)."""
    return ".".join(map(str, fault["loc"][1:] or fault["loc"]))[:80] or "the request"


def _given(fault: Fault) -> str:
    return repr(str(fault["input"])[:40])


def _bound(fault: Fault, name: str) -> str:
    return f"{fault['ctx'][name]:g}"


def _other(fault: Fault) -> str:
    return "is not as it should be; /docs says what is taken"
