"""How the arguments of ``fit``, ``train`` and ``compress`` become a recipe and the name of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketvit.spec.recipe import Recipe, load_recipe


def resolve_recipe(
    source: str | Path | Recipe, name: str | None, overrides: dict[str, Any], suffix: str = ""
) -> tuple[Recipe, str]:
    """The recipe of a run and the run's name.

    ``name`` names the run and the artifact. Without it the run has the name of the recipe's file (of the recipe, where
    there is no file) and ``suffix``, and the artifact that which the recipe states.

    Args:
        source: YAML file, or a recipe made in Python.
        name: name of the run and of the artifact.
        overrides: sections of the recipe as dicts of the fields to change or as whole dataclasses
            (``budget={"latency_ms": 33}``, ``budget=Budget(latency_ms=33)``), or fields by dotted name
            (``**{"budget.latency_ms": 33}``); a section that is ``None`` is left as it is.
        suffix: ends the run's name where none is given.

    Raises:
        UsageError: the recipe cannot be read, or it or an override is wrong.
    """
    given = {key: value for key, value in overrides.items() if value is not None or "." in key}
    recipe = load_recipe(source, given | ({"name": name} if name is not None else {}))
    stem = recipe.name if isinstance(source, Recipe) else Path(source).stem
    return recipe, stem + suffix if name is None else name
