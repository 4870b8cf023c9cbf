"""From a trained model and its exported files to an artifact: goldens, manifest, card."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.errors import DataError, UsageError
from pocketvit.export.built import Built
from pocketvit.export.card import write_card
from pocketvit.export.onnx import add_metadata
from pocketvit.export.wrap import PixelModel, macs_of
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained
from pocketvit.runtimes.footprint import footprint
from pocketvit.spec.artifact import CARD, Artifact, check_replaceable, file_entries, new_folder, write_manifest
from pocketvit.spec.golden import Golden, write_golden
from pocketvit.spec.manifest import BenchRow, Licence, LineageStep, Manifest, Memory, MetricRow, TensorSpec, Variant
from pocketvit.spec.preprocess import PIXELS, Pixels, Preprocess, prepare, resize
from pocketvit.spec.split import HEAD_TOLERANCES, Split
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS, settings_of
from pocketvit.spec.tasks.base import Case
from pocketvit.tasks import TORCH_TASKS

ONNX = ".onnx"
LEAST_MARGIN = 0.02
"""Of a golden: how far the confidence of each early exit that looks at it must be from the exit's threshold."""
MAX_SOURCES, SOURCE_SIDE = 3, 400
"""Goldens keep so many images as they were before preprocessing, shrunk to this longer side."""


def pixel_model_of(trained: Trained) -> PixelModel:
    """The graph to export for a trained model."""
    names = [x.name for x in tensor_specs(trained)[1]]
    return PixelModel(trained.model, trained.preprocess, TORCH_TASKS[trained.task.name].graph_output, names)


def answers(pixel_model: PixelModel, inputs: Iterable[Pixels]) -> dict[str, NDArray[np.float32]]:
    """Outputs of the PyTorch model in fp32 for (H, W, 3) uint8 inputs, stacked: name -> (N, ...)."""
    rows: list[list[NDArray[np.float32]]] = []
    pixel_model = pixel_model.float().cpu().eval()
    with torch.inference_mode():
        for image in inputs:
            answer = pixel_model(torch.from_numpy(np.array(image))[None])
            rows.append([x.numpy() for x in ((answer,) if isinstance(answer, torch.Tensor) else answer)])
    return {name: np.concatenate([row[k] for row in rows]) for k, name in enumerate(pixel_model.output_names)}


def make_golden(
    trained: Trained, cases: Iterable[Case], count: int | None = None, *, max_bytes: int | None = None
) -> Golden:
    """Run the trained float model on real inputs.

    Of a model with a fixed input, inputs are prepared images, and the first three come from ``sources`` (the images,
    shrunk to 400 pixels). Of a tiled one they are centre crops of the model's size (a few pixels less where files take
    any: odd, so that padding is proven too), and ``sources`` is empty since tiles are not resized. Outputs are rounded
    as the task's golden policy says, so that they pack. Images at which an early exit hardly decides are left out: a
    file's rounding would send them on or not, and its answer would be another one, rightly.

    Args:
        trained: the model.
        cases: images with ground truth; at most ``count`` are read.
        count: number of goldens (the task's by default); fewer are made where they would exceed ``max_bytes``.
        max_bytes: estimated limit of the file, the task's by default.

    Raises:
        DataError: there are no cases.
    """
    task, spec = TASKS[trained.task.name], trained.preprocess
    crop = odd_size(spec)
    tiled = spec.resize == "tile"
    limit = task.golden.max_bytes if max_bytes is None else max_bytes
    spare = limit - (0 if tiled else MAX_SOURCES * SOURCE_SIDE**2 * 2)
    count = min(count or task.golden.count, max(1, int(spare / (math.prod(spec.size) * task.golden.bytes_per_pixel))))
    inputs, sources, truth = list[Pixels](), list[Pixels](), list[NDArray[Any]]()
    for case in islice(cases, count):
        image, answer = (
            _tile(case, crop) if tiled else (case.image, task.golden.kept(np.asarray(case.truth), spec.size))
        )
        if not tiled and len(sources) < MAX_SOURCES:
            image = shrink(image, SOURCE_SIDE)
            sources.append(image)
        inputs.append(image if tiled else prepare(image, spec))
        truth.append(answer)
    if not tiled and (clear := _decided(trained, inputs)) != list(range(len(inputs))):
        inputs, truth = [inputs[i] for i in clear], [truth[i] for i in clear]
        sources = [sources[i] for i in clear if i < len(sources)]
    if not inputs:
        raise DataError("there are no images to make goldens from.", "Give a data set with at least one image.")
    outputs = answers(pixel_model_of(trained), inputs)
    if step := task.golden.round_to:
        outputs = {name: (np.round(value / step) * step).astype(np.float32) for name, value in outputs.items()}
    return Golden(np.stack(inputs), outputs, tuple(sources), task.stack(truth), spec)


def _decided(trained: Trained, inputs: Sequence[Pixels]) -> list[int]:
    """Which inputs no early exit is in doubt about; all where the network has no exits."""
    margin: Callable[[torch.Tensor], torch.Tensor] | None = getattr(trained.model.eval(), "margin", None)
    if margin is None:
        return list(range(len(inputs)))
    with torch.inference_mode():
        found = [float(margin(normalise(torch.from_numpy(np.array(x))[None], trained.preprocess))) for x in inputs]
    return [i for i, value in enumerate(found) if value >= LEAST_MARGIN]


def odd_size(spec: Preprocess) -> tuple[int, int]:
    """Height and width of a tiled model's goldens: its size, less where files take any, and then no multiple."""
    least = [max(1, side - less) for side, less in zip(spec.size, (5, 11), strict=True)]
    return (least[0], least[1]) if spec.multiple else spec.size


def _tile(case: Case, size: tuple[int, int]) -> tuple[Pixels, NDArray[Any]]:
    """The centre of image and truth at ``size`` (padded by reflection where too small)."""
    cut = []
    for image in (case.image, case.truth):
        pad = [(0, max(0, want - have)) for want, have in zip(size, image.shape[:2], strict=True)]
        mode: Literal["reflect", "edge"] = "reflect" if min(image.shape[:2]) > max(p[1] for p in pad) else "edge"
        image = np.pad(image, (*pad, (0, 0)), mode=mode)
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        cut.append(np.ascontiguousarray(image[top : top + size[0], left : left + size[1]]))
    return cut[0], cut[1]


def shrink(image: Pixels, side: int) -> Pixels:
    """The image with its longer side at most ``side`` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return image if scale >= 1 else resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


@dataclass(frozen=True)
class Half:
    """One of the two artifacts of a split model."""

    split: Split
    graph: PixelModel
    """What its files are made of, on the processor."""


def complexity(trained: Trained, half: Half | None = None) -> dict[str, int]:
    """``parameters`` and ``macs`` (multiply-accumulates of matrix products and convolutions) for one model input."""
    graph = half.graph if half is not None else pixel_model_of(trained).cpu()
    return {"parameters": sum(p.numel() for p in graph.model.parameters()), "macs": macs_of(graph)}


def tensor_specs(trained: Trained, half: Half | None = None) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of every file of the artifact."""
    if half is not None:
        (inputs, outputs), between = tensor_specs(trained), [half.split.features]
        return (inputs, between) if half.split.is_head else (between, outputs)
    meaning = "RGB pixels, 0 to 255, channels last"
    inputs = [TensorSpec(name=PIXELS, shape=trained.preprocess.input_shape, dtype="uint8", meaning=meaning)]
    return inputs, TASKS[trained.task.name].outputs(trained.levels, trained.preprocess, trained.task)


def create_artifact(
    trained: Trained,
    destination: Path,
    *,
    name: str,
    golden: Golden,
    built: Sequence[Built],
    version: str = "0.1.0",
    default: str | None = None,
    main_metric: str | None = None,
    tolerances: Mapping[str, Mapping[str, float]] | None = None,
    lineage: Sequence[LineageStep] = (),
    metrics: Sequence[MetricRow] = (),
    benchmarks: Sequence[BenchRow] = (),
    licence: Licence | None = None,
    training: Mapping[str, Any] | None = None,
    memory: Mapping[str, Memory] | None = None,
    replace: bool = False,
    half: Half | None = None,
) -> Artifact:
    """Write an artifact folder in one step; on any error nothing is left.

    Args:
        trained: the model the files were made from.
        destination: folder to create.
        name: letters, digits, dot, dash, underscore.
        golden: from :func:`make_golden`.
        built: files of every variant; they are copied. Variants may share files (fp32 and bf16 of OpenVINO).
        version: semantic version of the artifact.
        default: ``runtime:precision`` that ``load`` takes; the first of ``built`` by default.
        main_metric: name of the metric that floors are about; the first of ``metrics`` or the task's own by default.
        tolerances: by precision; entries replace those of the task, and may only be tighter (``verify`` refuses).
        lineage: steps tried, kept or rejected.
        metrics: measured metrics; each is also listed with its variant.
        benchmarks: measured times.
        licence: terms of weights and data.
        training: how the model was trained.
        memory: from :func:`measure_memory`.
        replace: an artifact that lies at ``destination`` is replaced, nothing else.
        half: of half a model: which, and its graph.

    Raises:
        UsageError: no files, two variants of one name, an unknown default, a bad name, or ``destination`` exists and
            may not be replaced.
        DataError: the disk is full.
    """
    keys = [b.key for b in built]
    if not keys or len(set(keys)) != len(keys) or (default or keys[0]) not in keys:
        what = f"an artifact cannot be made of variants {keys} with default {default}."
        raise UsageError(what, "Give each variant once and a default among them.")
    (inputs, outputs), task = tensor_specs(trained, half), TASKS[trained.task.name]
    levels = [] if half is not None and half.split.is_head else list(trained.levels)
    known = HEAD_TOLERANCES if half is not None and half.split.is_head else task.tolerances
    limits = {p: dict(known[p]) for p in dict.fromkeys(b.precision for b in built)}
    for precision, values in (tolerances or {}).items():
        limits.setdefault(precision, {}).update(values)
    architecture: dict[str, Any] = {"name": trained.model_spec.name, "options": dict(trained.model_spec.options)}
    architecture |= complexity(trained, half)
    if replace:
        check_replaceable(destination)
    with new_folder(destination, replace=replace) as folder:
        variants = _copy_files(built, folder, metrics, memory or {})
        for path in sorted(folder.glob(f"*{ONNX}")):
            add_metadata(path, _metadata(changed(trained, levels=tuple(levels)), name, version))
        fields: dict[str, Any] = {
            "name": name, "version": version, "task": task.name, "architecture": architecture,
            "settings": settings_of(trained.task), "split": half.split if half is not None else None,
            "levels": levels, "preprocess": trained.preprocess,
            "inputs": inputs, "outputs": outputs, "files": [], "variants": variants, "default": default or keys[0],
            "main_metric": main_metric or (metrics[0].name if metrics else task.main(trained.levels)),
            "tolerances": limits, "strength": task.strength,
            "lineage": list(lineage), "metrics": list(metrics), "benchmarks": list(benchmarks),
            "licence": licence or Licence(), "training": dict(training or trained.info),
        }  # fmt: skip
        draft = _manifest(fields)
        write_golden(folder, changed(golden, contract=draft.contract()))
        (folder / CARD).write_text(write_card(draft), encoding="utf-8")
        manifest = _manifest(fields | {"files": file_entries(folder)})
        write_manifest(folder, manifest)
    return Artifact(destination, manifest)


def _metadata(trained: Trained, name: str, version: str) -> dict[str, str]:
    """What an ONNX file says about itself, so that it can be used alone; values that are no words are JSON."""
    tables = {
        "labels": {level.name: level.labels for level in trained.levels},
        "parents": {level.name: level.parents for level in trained.levels if level.parents},
        "preprocess": trained.preprocess.to_dict(),
    }
    words = {"name": name, "version": version, "task": trained.task.name}
    return words | {key: json.dumps(value, ensure_ascii=False) for key, value in tables.items()}


def _manifest(fields: dict[str, Any]) -> Manifest:
    try:
        return Manifest(**fields)
    except ValueError as error:
        first = error.errors()[0]  # type: ignore[attr-defined]
        what = f"manifest: {'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})."
        raise UsageError(what, "Correct the argument of that name.") from error


def measure_memory(trained: Trained, built: Sequence[Built], threads: int = 2) -> dict[str, Memory]:
    """What runs of each file take, by variant, where files take any size: see :mod:`pocketvit.runtimes.footprint`.

    Raises:
        VerificationError: a file does not run.
    """
    files = built if trained.preprocess.multiple else ()
    found = {x.key: footprint(x.path, Target(x.runtime, x.precision, threads, x.device)) for x in files}
    return {key: memory for key, memory in found.items() if memory is not None}


def _copy_files(
    built: Sequence[Built], folder: Path, metrics: Sequence[MetricRow], memory: Mapping[str, Memory]
) -> list[Variant]:
    """Copy each source once; different sources get different names, pairs such as .xml and .bin keep one stem."""
    stems: dict[Path, str] = {}
    variants = []
    for item in built:
        source, stem, files = item.path.resolve(), item.path.stem, (item.path, *item.companions)
        if source not in stems:
            taken = (folder / item.path.name).exists()
            stems[source] = f"{stem}-{item.runtime}-{item.precision}" if taken else stem
            for path in files:
                shutil.copyfile(path, folder / f"{stems[source]}{path.suffix}")
        name, *companions = (f"{stems[source]}{file.suffix}" for file in files)
        measured = {row.name: row.value for row in metrics if row.variant == item.key}
        which: dict[str, Any] = {"runtime": item.runtime, "precision": item.precision, "device": item.device}
        which |= {"path": name, "companions": companions, "metrics": measured, "memory": memory.get(item.key)}
        which["varies"] = item.varies
        variants.append(Variant.model_validate(which))
    return variants
