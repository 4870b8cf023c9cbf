"""Do goldens go with their manifest? Asked by ``verify`` before anything is run, and by whatever shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from pocketvit.spec.artifact import Golden
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.tasks import TASKS


def golden_faults(manifest: Manifest, golden: Golden) -> list[str]:
    """What is wrong with names, shapes, dtypes and ranges of the goldens, in a phrase each; empty where nothing is."""
    return [*_input_faults(manifest, golden), *_output_faults(manifest, golden), *_truth_faults(manifest, golden)]


def _input_faults(manifest: Manifest, golden: Golden) -> Iterator[str]:
    have, (height, width) = golden.inputs, manifest.preprocess.size
    if len(have.shape) == 0 or len(have) == 0 or have.dtype != np.uint8 or have.shape[1:] != (height, width, 3):
        yield f"the golden inputs are {have.dtype} {have.shape}, not uint8 (N, {height}, {width}, 3)"
    elif len(golden.sources) > len(have):
        yield f"{len(golden.sources)} sources for {len(have)} golden inputs"
    for index, source in enumerate(golden.sources):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            yield f"golden source {index} is {source.dtype} {source.shape}, not uint8 (H, W, 3)"


def _output_faults(manifest: Manifest, golden: Golden) -> Iterator[str]:
    names, count = sorted(x.name for x in manifest.outputs), golden.inputs.shape[:1]
    if sorted(golden.outputs) != names:
        yield f"the goldens hold outputs {sorted(golden.outputs)}, the manifest names {names}"
    for spec in manifest.outputs:
        value = golden.outputs.get(spec.name)
        if value is None:
            continue
        if value.dtype != spec.dtype or value.shape != (*count, *spec.shape[1:]):
            wanted = (*count, *spec.shape[1:])
            yield f"golden output {spec.name} is {value.dtype} {value.shape}, not {spec.dtype} {wanted}"
        elif not np.isfinite(value).all():
            yield f"golden output {spec.name} holds NaN or infinity"


def _truth_faults(manifest: Manifest, golden: Golden) -> Iterator[str]:
    truth, task, levels = golden.truth, TASKS[manifest.task], manifest.levels
    if truth.dtype.kind not in "iuf" or truth.ndim < 1 or not np.isfinite(truth).all():
        yield f"the ground truth is {truth.dtype} {truth.shape}, not finite numbers for each golden input"
    elif truth.shape[:1] != golden.inputs.shape[:1]:
        yield f"{len(truth)} ground truths for {(*golden.inputs.shape, 0)[0]} golden inputs"
    elif task.labelled:
        sizes = np.array([len(level.labels) for level in levels])
        fits = truth.dtype.kind in "iu" and truth.shape[1:] == sizes.shape
        if not fits or (truth.astype(np.int64) < 0).any() or (truth.astype(np.int64) >= sizes).any():
            yield f"the ground truth is {truth.dtype} {truth.shape} and not a class of each of {len(sizes)} levels"
    elif task.geometry == "pixels" and (truth.dtype != np.uint8 or truth.shape != golden.inputs.shape):
        yield f"the ground truth is {truth.dtype} {truth.shape}, not uint8 {golden.inputs.shape} as the inputs"


def contract_difference(manifest: Manifest, golden: Golden) -> str:
    """The first place where task, labels, inputs or outputs are not those that the goldens were made with."""
    stated = manifest.contract()
    if stated == golden.contract:
        return ""
    try:
        found = _difference("", json.loads(stated), json.loads(golden.contract))
    except (ValueError, RecursionError):
        found = ""
    return found or "the goldens were made with other labels or outputs than the manifest states"


def _difference(place: str, stated: Any, used: Any) -> str:
    """The first place where two JSON values differ, with both; empty where they are equal."""
    if isinstance(stated, dict) and isinstance(used, dict) and stated.keys() == used.keys():
        parts = [(f"{place}.{key}" if place else key, stated[key], used[key]) for key in stated]
    elif isinstance(stated, list) and isinstance(used, list) and len(stated) == len(used):
        parts = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(stated, used, strict=True))]
    elif stated == used:
        return ""
    else:
        return f"{place} in the manifest is {str(stated)[:80]!r}, the goldens were made with {str(used)[:80]!r}"
    return next(filter(None, (_difference(*part) for part in parts)), "")
