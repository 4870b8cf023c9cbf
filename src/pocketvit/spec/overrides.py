"""How the arguments of ``fit``, ``train`` and ``compress`` become a recipe and the name of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pocketvit.errors import DataError
from pocketvit.spec.recipe import Recipe, flat, load_recipe
from pocketvit.spec.typed import short
from pocketvit.spec.yamlfile import read_yaml

PATHS = {"data": ("train", "val", "test", "class_names"), "model": ("weights",), "train": ("teacher",)}
"""Fields that name files."""
READ_BY = {"class_names": ("list", "masks")}
"""Fields of ``data`` that go with some layouts; another layout on the command line leaves them out."""


class Resolved(NamedTuple):
    """What a command runs."""

    recipe: Recipe
    name: str
    """Of the run."""
    notes: tuple[str, ...] = ()
    """What of the recipe's file was left out, one sentence each."""


def resolve_recipe(
    source: str | Path | Recipe, name: str | None, overrides: dict[str, Any], suffix: str = ""
) -> Resolved:
    """The recipe of a run and the run's name.

    ``name`` names the run and the artifact. Without it the run has the name of the recipe's file (of the recipe, where
    there is no file) and ``suffix``, and the artifact that which the recipe states.

    A relative path in the file is looked for in the current folder, then beside the file; one among the overrides in
    the current folder alone.

    Args:
        source: YAML file, or a recipe made in Python.
        name: name of the run and of the artifact.
        overrides: sections of the recipe as dicts of the fields to change or as whole dataclasses
            (``budget={"latency_ms": 33}``, ``budget=Budget(latency_ms=33)``), or fields by dotted name
            (``**{"budget.latency_ms": 33}``); a section that is ``None`` is left as it is.
        suffix: ends the run's name where none is given.

    Raises:
        UsageError: the recipe cannot be read, or it or an override is wrong.
        DataError: data, class names, weights or a teacher are not there; both places are named.
    """
    given = {key: value for key, value in overrides.items() if value is not None or "." in key}
    if name is not None:
        given["name"] = name
    if isinstance(source, Recipe):
        return Resolved(load_recipe(source, given), source.name + suffix if name is None else name)
    document, folder, notes = read_yaml(Path(source)), Path(source).parent, []
    stated: Any = document.get("data")
    chosen = flat(given).get("data.layout")
    for key, layouts in READ_BY.items() if isinstance(stated, dict) else ():
        other = chosen is not None and chosen != stated.get("layout") and chosen not in layouts
        if other and key in stated and f"data.{key}" not in flat(given):
            del stated[key]
            notes.append(f"data.{key} of the recipe is left out: data.layout {short(chosen)} has no use for it.")
    if "data.train" in flat(given) and "licence_data" in document and "licence_data" not in given:
        del document["licence_data"]
        notes.append("licence_data of the recipe is left out: it is about other data. Give --licence_data to state it.")
    found = {section: _located(document.get(section), keys, folder) for section, keys in PATHS.items()}
    recipe = load_recipe(document | {section: value for section, value in found.items() if value}, given)
    _check_there(recipe, folder)
    return Resolved(recipe, Path(source).stem + suffix if name is None else name, tuple(notes))


def _located(section: Any, keys: tuple[str, ...], folder: Path) -> Any:
    """The section with paths that lie beside the recipe and not in the current folder written out."""
    if not isinstance(section, Mapping):
        return section

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(entry) for entry in value]
        beside = isinstance(value, str) and value and not os.path.exists(value) and os.path.exists(folder / value)
        return str(folder / value) if beside else value

    return {key: place(value) if key in keys else value for key, value in section.items()}


def _check_there(recipe: Recipe, folder: Path) -> None:
    """Raise ``DataError`` where a data path is in neither place; weights may be names and are looked for later."""
    for key in PATHS["data"]:
        value = getattr(recipe.data, key)
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None and not os.path.exists(path):
                places = f"neither in {os.getcwd()} nor beside the recipe in {folder.absolute()}"
                where = "no such file or folder" if os.path.isabs(path) else places
                todo = "Correct the path; one on the command line is relative to the current folder."
                raise DataError(f"data.{key}: {short(path)}: {where}.", todo)
