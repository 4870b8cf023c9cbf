"""Reading a manifest that somebody else may have written: JSON without traps, strict types, and bounds on every number.

What the manifest says of its model files is held against them where they are opened (:mod:`pocketvit.runtimes.model`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from pocketvit.errors import UsageError
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import PRECISIONS, Target
from pocketvit.spec.tasks import TASKS

MAX_BYTES = 16_000_000
"""Of the document: tens of thousands of labels take one."""
MAX_NUMBER = 2.0**64
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
"""What file systems allow."""
MAX_LABEL = 1000
"""Characters: labels stand in tables and beside pictures."""


def parse_manifest(content: bytes) -> Manifest:
    """The manifest that ``content`` holds as JSON.

    Raises:
        ValueError: in one line what is wrong: no JSON, a key twice, a number that is not finite or absurd, a value of
            another type than the field's (text is no number), or fields that do not go together.
    """
    try:
        _check_values(json.loads(content, object_pairs_hook=_without_repeats))
        manifest = Manifest.model_validate_json(content, strict=True)
        if fault := next(_faults(manifest), ""):
            raise ValueError(fault)
    except ValidationError as error:
        first = error.errors()[0]
        text = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'document'}: {text}") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UsageError as error:  # Preprocess and Target check their own values
        raise ValueError(error.what.rstrip(".")) from error
    return manifest


def plain_name(name: str) -> bool:
    """Whether ``name`` is that of a file in the artifact's own folder, on any system."""
    short = 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    return (
        short
        and name != ".."
        and PurePosixPath(name).name == name
        and not any(x in "\\:" or not x.isprintable() for x in name)
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {_repeated([key for key, _ in pairs])!r} stands there twice")
    return found


def _repeated(names: list[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def _check_values(value: Any, depth: int = 0) -> None:
    """Raise ``ValueError`` for numbers out of bounds (NaN is) and for more depth than anything shows."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise ValueError(f"the number {str(value)[:20]} is out of bounds")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_values(inner, depth + 1)


def _faults(manifest: Manifest) -> Iterator[str]:
    """What does not go together, field by field."""
    names = [entry.path for entry in manifest.files] + [n for v in manifest.variants for n in (v.path, *v.companions)]
    yield from (
        f"file name {name[:80]!r} leaves the artifact folder or is no plain name"
        for name in names
        if not plain_name(name)
    )
    for what, keys in (
        ("file", [entry.path for entry in manifest.files]),
        ("variant", [variant.key for variant in manifest.variants]),
        ("level", [level.name for level in manifest.levels]),
    ):
        if repeated := _repeated(keys):
            yield f"{what} {repeated} is listed twice"
    for variant in manifest.variants:
        if variant.precision not in PRECISIONS:
            yield f"variant {variant.key}: unknown precision {variant.precision!r}"
        Target(variant.runtime, variant.precision, device=variant.device)
    keys = [variant.key for variant in manifest.variants]
    if keys and not {manifest.default, manifest.default.partition("@")[0]} & set(keys):
        yield f"default: {manifest.default[:80]!r} is none of the variants {', '.join(keys)[:200]}"
    for level in manifest.levels:
        if (longest := max(map(len, level.labels))) > MAX_LABEL:
            yield f"level {level.name[:80]}: a label has {longest} characters"
    if any(row.count < 0 for row in manifest.metrics):
        yield "metrics: a count is negative"
    if any(min(row.p50_ms, row.p90_ms) <= 0 or row.runs < 0 for row in manifest.benchmarks):
        yield "benchmarks: times must be positive, and runs a count"
    task, resize = TASKS[manifest.task], manifest.preprocess.resize
    if (task.geometry == "pixels") != (resize == "tile"):
        yield f"preprocess.resize: {resize} does not go with the task {task.name}"
    wanted = manifest.takes
    if [(x.name, x.shape, x.dtype) for x in manifest.inputs] != [wanted]:
        have = ", ".join(f"{x.name} {x.dtype} {x.shape}" for x in manifest.inputs) or "none"
        yield f"the inputs are {have}, not {wanted[0]} {wanted[2]} {wanted[1]}"
