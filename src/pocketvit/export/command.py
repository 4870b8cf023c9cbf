"""``pocketvit export``: a checkpoint becomes an artifact whose every file was held against the trained model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.data.cases import eval_cases, main_condition
from pocketvit.data.collections import load_collection
from pocketvit.errors import UsageError
from pocketvit.files import scratch
from pocketvit.spec.artifact import check_replaceable
from pocketvit.spec.images import MAX_PIXELS
from pocketvit.spec.manifest import NAME_PATTERN, VERSION_PATTERN, Licence
from pocketvit.spec.recipe import DataConfig, Recipe, load_recipe
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Task

if TYPE_CHECKING:
    from pocketvit.export.split import SplitReport

MAX_GOLDENS = 1000


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far each file is from the trained model."""

    path: Path
    """Folder of the artifact."""
    variants: dict[str, dict[str, float]]
    """``runtime:precision`` to ``max_abs``, ``mean_abs``, ``min_cosine`` on the goldens, and ``bytes``."""
    goldens: int
    size: tuple[int, int]
    exit_code: int = 0
    """A mismatch is raised, not reported."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"path": str(self.path), "size": list(self.size), "goldens": self.goldens, "variants": self.variants}

    def render(self) -> str:
        """A few lines for people."""
        lines = [f"{self.path}: input {self.size[0]}x{self.size[1]}, checked on {self.goldens} real images."]
        for key, row in self.variants.items():
            differences = f"largest difference {row['max_abs']:.2g}, mean {row['mean_abs']:.2g}"
            cosine = f"least cosine {row['min_cosine']:.6f}"
            lines.append(f"  {key:20s} {row['bytes'] / 1e6:7.2f} MB   {differences}, {cosine}")
        return "\n".join(lines)


def export(
    checkpoint: str,
    out: str,
    *,
    formats: tuple[str, ...] = ("onnx",),
    size: tuple[int, int] | None = None,
    data: str | None = None,
    layout: str | None = None,
    goldens: int | None = None,
    name: str | None = None,
    version: str = "0.1.0",
    licence_data: str | None = None,
    replace_existing: bool = False,
    split_at: int | None = None,
    split_bits: int = 8,
) -> ExportReport | SplitReport:
    """Export a checkpoint to an artifact and hold every file against the trained model on real images.

    With ``split_at`` there are two, ``head`` and ``tail`` in ``out``: the head runs where the photo is, and sends
    features to a server of the tail.

    Args:
        checkpoint: folder of a checkpoint, a run, or the name of a shipped artifact.
        out: folder of the artifact to create.
        formats: any of onnx, openvino, torchscript; the first is the default variant.
        size: height and width of the input, instead of those it was trained with.
        data: folder or list with real images of the task's kind for the goldens; by default the run's validation data.
        layout: how ``data`` is laid out: clean, pairs, classes, list, sidd, gopro, depth, scenes7 or masks.
        goldens: number of golden images; by default as many as suit the task (classify 32, restore 6).
        name: name of the artifact; by default that of the folder ``out``.
        version: semantic version of the artifact.
        licence_data: terms of the training data, for manifest and card; by default those of the run's recipe.
        replace_existing: replace the artifact ``out``; a folder with anything else in it is left alone.
        split_at: cut the network in two behind this block, counted from 1 (classifiers on ViTs).
        split_bits: of each value that goes from head to tail, 2 to 8.

    Raises:
        UsageError: no checkpoint, unknown format, no images for goldens, or ``out`` exists or is no artifact.
        DataError: damaged checkpoint or images.
        VerificationError: a file does not give the trained model's answers.
    """
    from pocketvit.export.artifact import create_artifact, make_golden, measure_memory, pixel_model_of
    from pocketvit.export.check import check_parity
    from pocketvit.export.formats import exporter
    from pocketvit.export.split import check_place, halve, write_split
    from pocketvit.tasks.load import at_size, load_checkpoint

    formats, name = (formats,) if isinstance(formats, str) else tuple(formats), name or Path(out).resolve().name
    _check(formats, size, goldens, name, version)
    writers = [exporter(name) for name in dict.fromkeys(formats)]
    if split_at is not None:
        check_place(Path(out), replace_existing)
    elif replace_existing:
        check_replaceable(Path(out))
    elif os.path.lexists(out):
        raise UsageError(f"{out} already exists.", "Choose another folder, or pass --replace_existing.")
    trained, recipe = load_checkpoint(checkpoint), recipe_of(checkpoint)
    if size is not None:
        trained = at_size(trained, size)
    task = TASKS[trained.task.name]
    settings = data_settings(data, layout, task, recipe)
    collection = load_collection(settings.val or settings.train, settings, task.name, "val", trained.levels)
    count = goldens or task.golden.count
    condition = main_condition(settings, task.name)
    metric = task.main(trained.levels, condition)
    golden = make_golden(trained, eval_cases(collection, settings, count, only=condition or None), count)
    licence = Licence(data=licence_data or (recipe.licence_data if recipe else "not stated"))
    about: dict[str, Any] = {"name": name, "version": version, "main_metric": metric, "licence": licence}
    if split_at is not None:
        cut = halve(trained, split_at, split_bits, golden.inputs)
        return write_split(trained, Path(out), cut, golden, writers, **about)
    with scratch() as temporary:
        built = [write(pixel_model_of(trained), trained.preprocess.size, temporary, "model") for write in writers]
        found = {b.key: check_parity(b, golden, task.tolerances[b.precision], relative=task.relative) for b in built}
        memory = measure_memory(trained, built)
        create_artifact(
            trained, Path(out), golden=golden, built=built, memory=memory, replace=replace_existing, **about
        )
        variants = {b.key: found[b.key] | {"bytes": float(b.bytes)} for b in built}
    return ExportReport(Path(out), variants, len(golden.inputs), trained.preprocess.size)


def _check(formats: Sequence[str], size: Sequence[int] | None, goldens: int | None, name: str, version: str) -> None:
    """Raise ``UsageError`` where a number or a name is none that an artifact can have, before anything is loaded."""
    if not formats:
        raise UsageError("no format is named.", "Take e.g. onnx.")
    if size is not None and (len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
        raise UsageError(f"size {' '.join(map(str, size))} is no height and width.", "Write e.g. --size 256 256.")
    if goldens is not None and not 1 <= goldens <= MAX_GOLDENS:
        what = f"goldens must be at least 1 and at most {MAX_GOLDENS}, not {goldens}."
        raise UsageError(what, "Leave it out for the usual number.")
    if not re.fullmatch(NAME_PATTERN, name):
        todo = "Give --name letters, digits, dots, dashes and underscores, with a letter or digit first."
        raise UsageError(f"{name!r} cannot name an artifact.", todo)
    if not re.fullmatch(VERSION_PATTERN, version):
        raise UsageError(f"version {version!r} is no semantic version.", "Write three numbers, e.g. 0.1.0.")


def recipe_of(checkpoint: str) -> Recipe | None:
    """The resolved recipe of the run that a checkpoint lies in, if there is one."""
    from pocketvit.models.trained import find_checkpoint

    folder = find_checkpoint(checkpoint)
    run = folder.parents[2] if folder.parent.parent.name == "trials" else folder.parent  # of a fit, or of a training
    files = (folder / "recipe.yaml", run / "recipe.yaml")
    return next((load_recipe(file) for file in files if file.is_file()), None)


def data_settings(data: str | None, layout: str | None, task: Task, recipe: Recipe | None) -> DataConfig:
    """Where real images come from: those named, else the run's validation data. Raises UsageError: there are none."""
    if data is None:
        if recipe is None or not (recipe.data.val or recipe.data.train):
            todo = "Name a folder of real images with --data."
            raise UsageError("there are no images to hold the files against.", todo)
        return recipe.data
    known = recipe.data if recipe is not None and recipe.task.name == task.name else DataConfig()
    chosen = layout or (known.layout if recipe is not None else task.layouts[0])
    return replace(known, train=(data,), val=(), layout=chosen, val_layout=None)
