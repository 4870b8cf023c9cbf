"""The command ``pocketvit compress``: step 3 of fit alone, on weights that are trained already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketvit.errors import UsageError
from pocketvit.fit.choose import Prefer
from pocketvit.fit.result import FitReport
from pocketvit.fit.run import fit
from pocketvit.spec.recipe import Recipe, load_recipe


def compress(
    recipe: str | Path | Recipe,
    *,
    checkpoint: str | None = None,
    name: str | None = None,
    runs: str = "runs",
    prefer: Prefer | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> FitReport:
    """Shrink a trained model behind the gain gate, without any training, and hand over the proven artifact.

    Args:
        recipe: YAML file, or a recipe made in Python; its data calibrate and judge.
        checkpoint: weights to start from (checkpoint or run folder, .safetensors, shipped name); model.weights by default.
        name: run name; the recipe's file name and ``-compress`` by default.
        runs: folder that holds the runs.
        prefer: what decides among files that meet budget and floor: quality (the default), speed or size.
        quiet: no progress on standard error.
        overrides: fields that replace the recipe's: sections, or single fields by dotted name.

    Raises:
        UsageError: the recipe is wrong, names no weights, or the run is finished.
        NothingFitsError: no file meets budget and floor.
    """
    fixed: dict[str, Any] = {"train.epochs": 0, "search.models": [], "search.sizes": []}
    if checkpoint is not None:
        fixed["model.weights"] = checkpoint
    resolved = load_recipe(recipe, overrides | fixed)
    if resolved.model.weights is None:
        what = "there are no trained weights to compress."
        raise UsageError(what, "Give --checkpoint, or model.weights in the recipe.")
    stem = Path(recipe).stem if isinstance(recipe, (str, Path)) else resolved.name
    return fit(resolved, name=name or f"{stem}-compress", runs=runs, prefer=prefer, quiet=quiet)
