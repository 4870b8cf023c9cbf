"""Goldens: real inputs with the trained model's answers, on disk, and whether they go with their manifest.

NumPy's files are read without pickle, and their headers before any memory is asked for.
"""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UsageError, VerificationError
from pocketvit.files import writing
from pocketvit.spec.artifact import BROKEN_ZIP, GOLDEN, Artifact
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks import TASKS

MAX_GOLDEN_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Golden:
    """Real inputs with the trained float model's outputs, and what they were made with."""

    inputs: NDArray[Any]
    """(N, H, W, 3) uint8: model inputs after preprocessing; of a tail (N, tokens, width) float32."""
    outputs: Mapping[str, NDArray[np.float32]]
    """Output name to (N, ...) float32 of the trained float model (PyTorch)."""
    sources: tuple[NDArray[np.uint8], ...]
    """A few images before preprocessing, (h, w, 3) uint8 each; preprocessing them gives the first inputs."""
    truth: NDArray[np.generic]
    """(N, H, W, 3) uint8 clean images, or (N, levels) int64 classes: what the metric is computed against."""
    preprocess: Preprocess
    contract: str = ""
    """The manifest's :meth:`~pocketvit.spec.manifest.Manifest.contract` then; empty in artifacts of older versions."""


def read_golden(artifact: Artifact) -> Golden:
    """The goldens of ``artifact``.

    Raises:
        VerificationError: the file is missing, damaged, incomplete or unpacks to more than 1 GB.
    """
    path = artifact.path / GOLDEN
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_GOLDEN_BYTES:
                raise VerificationError(f"{path}: unpacks to more than goldens may hold.", "Do not use this artifact.")
            for member in archive.infolist():
                _check_header(archive, member)
        with np.load(path, allow_pickle=False) as file:
            data: dict[str, NDArray[Any]] = {key: file[key] for key in file.files}
        outputs = {key.removeprefix("output."): value for key, value in data.items() if key.startswith("output.")}
        sources = tuple(data[f"source.{i}"] for i in range(sum(key.startswith("source.") for key in data)))
        preprocess = json.loads(str(data["preprocess"]))
        preprocess |= {key: tuple(preprocess[key]) for key in ("size", "mean", "std")}
        contract = str(data["contract"]) if "contract" in data else ""
        return Golden(data["inputs"], outputs, sources, data["truth"], Preprocess(**preprocess), contract)
    except (*BROKEN_ZIP, MemoryError, KeyError, TypeError, SyntaxError, tokenize.TokenError, UsageError) as error:
        raise VerificationError(f"{path}: cannot be read ({error}).", "Export the artifact again.") from error


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ``ValueError`` for a member that is no array, or that says it is larger than it is: NumPy asks for the
    memory first."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX or (version := (*file.read(2),)) not in readers:
            raise ValueError(f"member {member.filename} is no array")
        shape, _, dtype = readers[version](file)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"member {member.filename} is shorter than its header says")


def write_golden(folder: Path, golden: Golden) -> None:
    """Write ``golden.npz`` (compressed, no pickle) into ``folder``."""
    arrays: dict[str, NDArray[np.generic]] = {
        "inputs": golden.inputs,
        "truth": golden.truth,
        "preprocess": np.array(json.dumps(golden.preprocess.to_dict())),
    }
    if golden.contract:
        arrays["contract"] = np.array(golden.contract)
    arrays |= {f"output.{name}": value for name, value in golden.outputs.items()}
    arrays |= {f"source.{i}": value for i, value in enumerate(golden.sources)}
    with writing(folder / GOLDEN):
        np.savez_compressed(folder / GOLDEN, **arrays)  # type: ignore[arg-type]


def golden_faults(manifest: Manifest, golden: Golden) -> list[str]:
    """What is wrong with names, shapes, dtypes and ranges of the goldens, in a phrase each; empty where nothing is."""
    return [*_input_faults(manifest, golden), *_output_faults(manifest, golden), *_truth_faults(manifest, golden)]


def _input_faults(manifest: Manifest, golden: Golden) -> Iterator[str]:
    have, (_, (_, *wanted), dtype) = golden.inputs, manifest.takes
    if have.ndim != len(wanted) + 1 or 0 in have.shape or have.dtype != dtype or not _fits(have.shape[1:], wanted):
        yield f"the golden inputs are {have.dtype} {have.shape}, not {dtype} (N, {', '.join(map(str, wanted))})"
    elif not np.isfinite(have).all():
        yield "the golden inputs hold NaN or infinity"
    elif len(golden.sources) > len(have):
        yield f"{len(golden.sources)} sources for {len(have)} golden inputs"
    for index, source in enumerate(golden.sources):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            yield f"golden source {index} is {source.dtype} {source.shape}, not uint8 (H, W, 3)"


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(n in (-1, have) for have, n in zip(shape, wanted, strict=True))


def _output_faults(manifest: Manifest, golden: Golden) -> Iterator[str]:
    names, count = sorted(x.name for x in manifest.outputs), golden.inputs.shape[:1]
    if sorted(golden.outputs) != names:
        yield f"the goldens hold outputs {sorted(golden.outputs)}, the manifest names {names}"
    for spec in manifest.outputs:
        value = golden.outputs.get(spec.name)
        if value is None:
            continue
        free = golden.inputs.shape if golden.inputs.ndim == len(spec.shape) else spec.shape
        wanted = (*count, *(have if n == -1 else n for have, n in zip(free[1:], spec.shape[1:], strict=True)))
        if value.dtype != spec.dtype or value.shape != wanted:
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
    elif fault := task.golden.fault(truth, golden.inputs):
        yield fault
    elif fault := task.partner.fault(truth, levels):
        yield f"the golden truth {fault}"


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
