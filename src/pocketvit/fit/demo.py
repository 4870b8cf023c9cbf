"""The command ``pocketvit demo``: the real job on photographs with added noise, without arguments or network."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvit.data.cases import eval_cases
from pocketvit.data.collections import load_collection
from pocketvit.errors import MissingDependencyError, UsageError
from pocketvit.files import LEFTOVER, make_folder, names_in, write_text
from pocketvit.runtimes.model import load
from pocketvit.spec.artifact import CANDIDATE
from pocketvit.spec.images import read_image, write_image
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.tasks import config_document, task_of
from pocketvit.train.lock import LOCK
from pocketvit.train.runs import FINISHED, LOG, MADE, RECIPE, check_name

if TYPE_CHECKING:
    from pocketvit.fit.result import FitReport

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "motorcycle_left")
"""Colour photographs that lie inside scikit-image's wheel; names that are not there are left out."""
TRAIN = ("rocket", "hubble_deep_field", "motorcycle_left")
MARKER, DENOISED = ".pocketvit-demo", "denoised"
"""In the folder of the photos: the file that says whose they are, and the folder of the answers."""
RUN_ENTRIES = frozenset(
    {RECIPE, FINISHED, CANDIDATE, LOG, LOCK, "artifact", "environment.json", "study.db-journal", *MADE}
)
"""What a fit writes into its run folder."""
SHIPPED, SIDE = "denoise-color", 320
DEMO_NAME = "demo-denoiser"
LATENCY_MS = 400.0
"""Budget for one photo of 320x320 on two threads; generous, so that the demo also ends well on a slow machine."""


def demo(*, runs: str = "runs", name: str = "demo", latency_ms: float = LATENCY_MS, quiet: bool = False) -> FitReport:
    """Denoise photographs with the shipped denoiser, then fit it to a latency budget.

    The noise is synthetic (Gaussian, sigma 25) and added here; noise of a camera was not tried.
    It is timed in every runtime, made int8 and bf16 behind the gain gate, verified, and the best file is chosen.

    Args:
        runs: folder that holds the runs; an earlier demo run there is replaced.
        name: run name.
        latency_ms: budget for one 320x320 photo, p50.
        quiet: no progress on standard error.

    Raises:
        NothingFitsError: the budget cannot be met on this machine.
        MissingDependencyError: scikit-image is not installed.
    """
    from pocketvit.fit.run import run

    check_name(name)
    folder, sources = Path(runs) / name, Path(runs) / f"{name}-photos"
    check_old(folder, sources)
    for old in (folder, sources):
        shutil.rmtree(old, ignore_errors=True)
    _write_photos(sources)
    recipe = demo_recipe(sources, latency_ms)
    line = denoise_with_shipped(recipe, sources / DENOISED)
    report = run(recipe, name, runs, quiet)
    return replace(report, notes=(line, *report.notes))


def check_old(folder: Path, sources: Path) -> None:
    """Raise ``UsageError`` unless run and photos are not there, or hold nothing but what an earlier demo wrote."""
    todo = "Choose another --name, or move it elsewhere."
    if os.path.lexists(folder) and not _is_demo(folder, sources):
        raise UsageError(f"{folder} exists and is no demo run.", "Choose another --name.")
    if strange := [name for name in names_in(folder) if name not in RUN_ENTRIES and not LEFTOVER.fullmatch(name)]:
        raise UsageError(f"{folder / strange[0]} is not the demo's, so its run is not replaced.", todo)
    if not os.path.lexists(sources):
        return
    ours = {MARKER, DENOISED, "train", "val"} | {f"{part}/{name}.png" for part in ("train", "val") for name in PHOTOS}
    ours |= {f"{DENOISED}/{name}_{what}.png" for name in PHOTOS for what in ("noisy", "restored")}
    found = {path.relative_to(sources).as_posix() for path in sources.rglob("*")}
    if sources.is_symlink() or MARKER not in found or found - ours:
        which = sources / min(found - ours, default="")
        raise UsageError(f"{which} is not the demo's, so the photos of the demo cannot be written.", todo)


def _is_demo(folder: Path, sources: Path) -> bool:
    """Whether the run in ``folder`` is of a demo with these photos."""
    if folder.is_symlink() or not (folder / RECIPE).is_file():
        return False
    try:
        recipe = load_recipe(folder / RECIPE)
    except UsageError:
        return False
    trained_on = [Path(path).parent.name for path in recipe.data.train]
    return recipe.name == DEMO_NAME and trained_on == [sources.name]


def denoise_with_shipped(recipe: Recipe, out: Path) -> str:
    """Denoise the validation photographs with the shipped artifact, write the pictures, and say what was measured."""
    model, task = load(SHIPPED), task_of(recipe.task.name)
    cases = list(eval_cases(load_collection(recipe.data.val, recipe.data, task.name, "val"), recipe.data))
    evaluator = task.evaluator((), cases[0].condition)
    noisy = task.baseline(cases, task.evaluator((), cases[0].condition))
    for case in cases:
        result = model(case.image)
        evaluator.update(result, case.truth, case.condition)
        write_image(out / f"{case.path.stem}_noisy.png", case.image)
        write_image(out / f"{case.path.stem}_restored.png", result.draw(case.image))
    restored = next(m for m in evaluator.metrics() if m.name == evaluator.main)
    what = f"{SHIPPED} ({model.target}) on {len(cases)} photographs with added noise ({cases[0].condition})"
    return f"{what}: {noisy.value:.2f} {noisy.unit} -> {restored.value:.2f} {restored.unit}; pictures in {out}"


def demo_recipe(photos: Path, latency_ms: float) -> Recipe:
    """Start from the shipped weights and train on for some seconds."""
    from pocketvit.models.trained import find_checkpoint, read_meta

    start = read_meta(find_checkpoint(SHIPPED))
    fields: dict[str, Any] = {
        "name": DEMO_NAME,
        "data": {"train": [str(photos / "train")], "val": [str(photos / "val")], "layout": "clean"},
        "model": {"name": start["model_spec"].name, "weights": SHIPPED},
        "task": config_document(start["task"]),
        "preprocess": start["preprocess"].to_dict(),
        "train": {"epochs": 2, "batch_size": 16, "lr": 1e-5, "schedule": "constant", "warmup": 0.0},
        "compress": {"steps": ["int8", "bf16"], "calibration_images": 8},
        "budget": {"latency_ms": latency_ms},
        "floor": {"max_drop": 0.2},
        "search": {"runtimes": ["onnxruntime", "openvino"], "timing_seconds": 2.0, "quiet_seconds": 10},
        "licence_data": "photographs that scikit-image carries (public domain and CC0, see its data/README)",
    }
    fields["data"] |= {"sigma": [0, 50], "eval_sigma": [25], "patch": 64, "patches_per_image": 32}
    return load_recipe(None, fields)


def _write_photos(folder: Path) -> None:
    """Centre crops of the photographs, split in calibration and validation."""
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError.of("scikit-image", "train") from error
    root = Path(next(iter(data.__path__)))
    write_text(folder / MARKER, "Photos and pictures of `pocketvit demo`; the next demo of this name replaces them.\n")
    for name in PHOTOS:
        files = [p for suffix in (".png", ".jpg", ".jpeg") if (p := root / f"{name}{suffix}").exists()]
        if not files:
            continue
        image = read_image(files[0])
        top, left = (max(0, length - SIDE) // 2 for length in image.shape[:2])
        part = folder / ("train" if name in TRAIN else "val")
        make_folder(part)
        write_image(part / f"{name}.png", np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE]))
