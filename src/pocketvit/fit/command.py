"""The commands ``pocketvit fit`` and ``pocketvit compress``; they import the torch side when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import UsageError
from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import Prefer, Recipe

if TYPE_CHECKING:
    from pocketvit.fit.result import FitReport


def fit(
    recipe: str | Path | Recipe,
    *,
    name: str | None = None,
    runs: str = "runs",
    prefer: Prefer | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> FitReport:
    """Find, train, shrink, prove and hand over the best model within the budget; killed and started again it goes on.

    Args:
        recipe: YAML file, a recipe made in Python, or a folder of photos to make one for.
        name: name of the run and of the artifact; by default the recipe's file name, and the name that the recipe
            states.
        runs: folder that holds the runs.
        prefer: what decides among files that meet budget and floor; ``search.prefer`` of the recipe by default.
        quiet: no progress on standard error.
        overrides: what differs from the recipe: sections (``budget={"latency_ms": 33}`` or ``budget=Budget(...)``), or
            fields by dotted name (``**{"budget.latency_ms": 33}``).

    Raises:
        UsageError: the recipe is wrong, or the run is finished.
        DataError: data that cannot be used.
        NothingFitsError: no candidate meets budget and floor; no artifact is left behind.
    """
    from pocketvit.data.begin import begin
    from pocketvit.train.runs import refuse_finished

    source, said = begin(recipe, overrides)
    resolved, run_name, notes = resolve_recipe(source, name, overrides | _preferred(prefer))
    refuse_finished(resolved, run_name, runs)
    from pocketvit.fit.run import run  # heavy: what is wrong already is told before

    return run(resolved, run_name, runs, quiet, (*said, *notes))


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
    """Shrink a trained model behind the gain gate, with no training but that of its steps, and hand over the artifact.

    Args:
        recipe: YAML file, or a recipe made in Python; its data calibrate and judge.
        checkpoint: weights to start from (checkpoint or run folder, .safetensors, shipped name); the recipe's
            model.weights by default.
        name: name of the run and of the artifact; by default the recipe's file name with ``-compress``, and the name
            that the recipe states.
        runs: folder that holds the runs.
        prefer: what decides among files that meet budget and floor; ``search.prefer`` of the recipe by default.
        quiet: no progress on standard error.
        overrides: what differs from the recipe, as for ``fit``.

    Raises:
        UsageError: the recipe is wrong, names no weights, or the run is finished.
        NothingFitsError: no file meets budget and floor.
    """
    search = overrides.get("search") or {}
    names = [
        name
        for name in ("models", "sizes")
        if f"search.{name}" in overrides or (isinstance(search, dict) and name in search)
    ]
    if names or any(key == "train" or key.startswith("train.") for key in overrides):
        ignored = f"search.{names[0]}" if names else "train"
        raise UsageError(f"compress trains nothing and takes one model: {ignored} has no say.", "Leave it out, or fit.")
    fixed: dict[str, Any] = {"train.epochs": 0, "search.models": [], "search.sizes": []}
    if checkpoint is not None:
        fixed["model.weights"] = checkpoint
    resolved, run_name, notes = resolve_recipe(recipe, name, overrides | _preferred(prefer) | fixed, "-compress")
    if resolved.model.weights is None:
        raise UsageError(
            "there are no trained weights to compress.", "Give --checkpoint, or model.weights in the recipe."
        )
    from pocketvit.train.runs import refuse_finished

    refuse_finished(resolved, run_name, runs)
    from pocketvit.fit.run import run  # heavy: what is wrong already is told before

    return run(resolved, run_name, runs, quiet, notes)


def _preferred(prefer: Prefer | None) -> dict[str, Any]:
    return {"search.prefer": prefer} if prefer else {}
