"""Reading a recipe's YAML: nothing in the file is dropped, executed, or larger in memory than it looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pocketvit.errors import UsageError
from pocketvit.files import read_text

MAX_BYTES, MAX_ALIASES, MAX_VALUES = 64_000, 16, 20_000
"""Of a file, of its aliases, and of its values with every alias written out."""
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
"""Neither 010 for 8 nor 1:30 for 90, as YAML 1.1 has them."""


class _Loader(yaml.SafeLoader):
    """Plain values alone: keys once in each mapping, no tags, few aliases; ``1e-3`` is a number and a date is text."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if getattr(event, "tag", None) is not None:
            raise ConstructorError(None, None, f"the tag {event.tag!r} is not read", mark)
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise ConstructorError(None, None, f"has more than {MAX_ALIASES} aliases", mark)
        return super().compose_node(parent, index)

    def construct_document(self, node: Any) -> Any:
        if (values := _written_out(node, {})) > MAX_VALUES:
            raise ConstructorError(None, None, f"its aliases stand for {values} values", node.start_mark)
        return super().construct_document(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []
        for key_node, _ in node.value:  # before merge keys (<<) are filled in: what these bring may be overridden
            merged = key_node.tag == "tag:yaml.org,2002:merge"
            key = "<<" if merged else self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise ConstructorError(None, None, f"the key {str(key)[:60]} is there twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)  # type: ignore[no-untyped-call]


_Loader.yaml_implicit_resolvers = {
    first: [(tag, what) for tag, what in rows if not tag.endswith(("timestamp", "float", "int"))]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# The whole numbers first, as the others take them too.
for _first in "-+0123456789.":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).extend(
        (f"tag:yaml.org,2002:{kind}", re.compile(rf"^(?:{what.pattern})$"))
        for kind, what in (("int", _WHOLE), ("float", _NUMBER))
    )


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for, each alias counted as what it repeats."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if known.setdefault(id(node), 0) == 0:
        known[id(node)] = -1  # open: found again inside itself
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    elif known[id(node)] < 0:
        raise ConstructorError(None, None, "an alias stands for what it lies in", node.start_mark)
    return known[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        UsageError: the file cannot be read, is larger than ``MAX_BYTES``, no YAML or no mapping; it names a key twice,
            holds tags, or aliases that are many or stand for much. The line is named, the content not repeated.
    """
    try:
        document = yaml.load(read_text(path, MAX_BYTES), _Loader)  # a SafeLoader
    except OSError as error:
        what = f"{path}: cannot be read ({error.strerror})."
        raise UsageError(what, "Name a recipe, e.g. recipes/denoise_color.yaml.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{path}{where}: is not valid YAML ({str(error.problem)[:120]}).", "Correct the file."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of text, of numbers without end, of nesting
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:120]
        raise UsageError(f"{path}: is not valid YAML ({reason}).", "Correct the file.") from error
    if document is not None and not isinstance(document, dict):
        what = f"{path}: a recipe is a mapping of sections, not a {type(document).__name__}."
        raise UsageError(what, "See recipes/ for examples.")
    return document or {}
