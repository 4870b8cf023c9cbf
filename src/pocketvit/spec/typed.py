"""Values of a recipe: of the type that the field states, within its range, refused in words and with an example."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pocketvit.errors import UsageError

T = TypeVar("T")
_ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_EXAMPLES = {bool: True, int: 4, float: 30.0, str: "name"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; nan is in no range."""

    low: float
    high: float
    above: bool = False
    """``low`` itself is outside."""
    below: bool = False
    """``high`` itself is outside."""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return False
        over = value > self.low if self.above else value >= self.low
        return bool(over and (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        return f"{'above' if self.above else 'at least'} {low} and {'below' if self.below else 'at most'} {high}"


def check_ranges(section: str, settings: object, ranges: Mapping[str, Range]) -> None:
    """Raise the ``UsageError`` that names the first field out of its range; ``None`` passes, of a tuple each entry."""
    for name, allowed in ranges.items():
        check_range(f"{section}.{name}", getattr(settings, name), allowed)


def check_range(key: str, value: object, allowed: Range) -> None:
    """Raise the ``UsageError`` that names ``key`` unless ``value``, or each entry of it, lies in the range."""
    for number in value if isinstance(value, (tuple, list)) else (value,):
        if number is not None and number not in allowed:
            raise UsageError(f"{key} must be {allowed}, not {short(value)}.", "Correct the recipe or the option.")


def check_ordered(section: str, settings: object, names: Iterable[str]) -> None:
    """Raise the ``UsageError`` that names the first field that is no range, low and high with low <= high."""
    for name in names:
        low, high = value = getattr(settings, name)
        if not low <= high:  # nan fails it too
            what = f"{section}.{name} must be low and high, low <= high, not {short(value)}."
            raise UsageError(what, "Correct the recipe or the option.")


def check_finite(key: str, value: object) -> None:
    """Raise the ``UsageError`` that names ``key`` where settings of any form hold infinity or nan."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError as error:
        raise UsageError(f"{key} must hold finite numbers alone.", "Correct the recipe or the option.") from error


def short(value: object) -> str:
    """A value for an error message, however large it is."""
    if isinstance(value, (str, bytes)):
        text = repr(value[:60])
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    elif isinstance(value, Mapping):
        return f"a mapping with {len(value)} keys"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(short, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def strict(kind: type[T], document: Mapping[str, Any], prefix: str = "") -> T:
    """``document`` as the dataclass ``kind``: whole numbers pass for numbers, lists for tuples, and nothing else.

    One text where a list of texts is asked for is a list of one.

    Raises:
        UsageError: a value has another type than its field; key, value, type and an example are named.
    """
    listed = _listed(kind, document)
    try:
        text = json.dumps(listed, default=_plain)
        # JSON mode: lists become tuples and mappings dataclasses, and yet no text a number and no number a truth value.
        if "\\u0000" in text:
            raise ValueError("holds a text with a NUL character")
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        loc = error.errors(include_url=False, include_input=False)[0]["loc"]
        if not loc:  # half of a surrogate pair
            what = f"{prefix or 'the recipe'} holds a text that is no Unicode."
            raise UsageError(what, "Write it with other characters.") from error
        raise _wrong(kind, listed, loc, prefix) from error
    except (TypeError, ValueError, RecursionError) as error:
        what = f"{prefix or 'the recipe'}: {' '.join(str(error).split())[:120]}."
        raise UsageError(what, "Give plain numbers, texts, lists and mappings.") from error


def expected(kind: Any) -> tuple[str, Any]:
    """A type in words, and an example of it."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = [part for part in typing.get_args(kind) if part is not type(None)] if union else [kind]
    origin, entries = typing.get_origin(kinds[0]), typing.get_args(kinds[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, entries))}", entries[0]
    if origin is tuple:
        first = next(part for part in (*typing.get_args(entries[0]), entries[0]) if part in _MANY)
        many = entries[-1] is Ellipsis
        words = f"a list of {'' if many else f'{len(entries)} '}{_MANY[first]}"
        return words, [_EXAMPLES[first]] * (1 if many else len(entries))
    if kinds[0] in _ONE:
        return _ONE[kinds[0]], _EXAMPLES[kinds[0]]
    return "a mapping", {}


def expected_of(kind: Any, default: Any = None) -> str:
    """What a value must be, with an example, for the second line of an error: ``a whole number, e.g. 10``."""
    words, example = expected(kind)
    if default is not None and default not in ((), {}):
        example = default
    return f"{words}, e.g. {json.dumps(example, default=_plain)}"


def _wrong(kind: Any, document: Mapping[str, Any], loc: tuple[int | str, ...], prefix: str) -> UsageError:
    """Follow the place of an error through the dataclasses; below a field the field is named."""
    keys, value, default = [prefix] if prefix else [], typing.cast(Any, document), None
    for part in loc:
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            break
        field = next(field for field in dataclasses.fields(typing.cast(Any, kind)) if field.name == part)
        default = None if field.default is dataclasses.MISSING else field.default
        keys, value, kind = [*keys, str(part)], value.get(part) if isinstance(value, Mapping) else value, hints[part]
    key = ".".join(keys) or "the recipe"
    wanted = "a mapping" if dataclasses.is_dataclass(kind) else expected_of(kind, default)
    what = f"{key} must be {wanted.partition(', e.g. ')[0]}, not {short(value)}."
    example = wanted.partition(", e.g. ")[2]
    todo = f"For example {keys[-1]}: {example} in the recipe, or --{key} on the command line." if example else ""
    return UsageError(what, todo or "Correct the recipe or the option.")


def _listed(kind: Any, document: Any) -> Any:
    """The document with every single text that stands for a list of texts made one."""
    if not dataclasses.is_dataclass(kind) or not isinstance(document, Mapping):
        entries = typing.get_args(kind) if typing.get_origin(kind) is tuple else ()
        texts = any(str in (entry, *typing.get_args(entry)) for entry in entries)
        return [document] if texts and isinstance(document, (str, os.PathLike)) else document
    hints = typing.get_type_hints(kind)
    return {key: _listed(hints[key], value) if key in hints else value for key, value in document.items()}


def _plain(value: Any) -> Any:
    """What Python callers may also give: paths and NumPy's numbers and arrays."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain value")
