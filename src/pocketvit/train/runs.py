"""Run folders: the resolved recipe, the environment, and the rule that a run resumes but a finished one stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pocketvit.errors import DataError, UsageError
from pocketvit.files import sweep, write_json, write_text
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import Recipe, load_recipe

RECIPE, FINISHED = "recipe.yaml", "finished.json"
CHANGEABLE = ("budget", "floor", "licence_data", "name", "search.prefer", "search.quiet_seconds")
"""Sections and fields that a resumed run may change: they judge and label what was trained, and change no training."""


def open_run(recipe: Recipe, name: str, runs: str) -> Path:
    """Create or re-enter ``runs/name``; a re-entered run may change budget, floor, licence and artifact name.

    Raises UsageError: the name is no plain folder name, the run is finished, or was begun with another recipe.
    DataError: the folder cannot be read or written.
    """
    check_name(name)
    folder = Path(runs) / name
    try:
        return _enter(folder, recipe)
    except OSError as error:
        what = f"{folder}: cannot be written ({error.strerror})."
        raise DataError(what, "Check --runs, free space and permissions.") from error


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` is one plain folder name."""
    if not name.strip() or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        what = f"{name!r} cannot name a run."
        raise UsageError(what, "Give --name one plain folder name, and --runs the folder above it.")


def finish_run(folder: Path, summary: dict[str, Any]) -> None:
    """Mark the run as finished and delete what kills have left. Raises DataError: the folder cannot be written."""
    sweep(folder)
    write_json(folder / FINISHED, summary)


def _enter(folder: Path, recipe: Recipe) -> Path:
    if (folder / FINISHED).exists():
        raise UsageError(f"the run {folder} is finished.", "Choose another --name, or delete the folder to start over.")
    document = recipe.to_dict()
    if (folder / RECIPE).exists():
        begun = load_recipe(folder / RECIPE).to_dict()
        if changed := [line for line in _differences(begun, document) if not line.startswith(CHANGEABLE)]:
            what = f"the run {folder} was begun with another recipe ({changed[0]})."
            raise UsageError(what, "Undo the change to resume, or choose another --name.")
        if begun == document:
            return folder
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "environment.json", environment() | {"seed": recipe.train.seed})
    # The recipe comes last: where it lies, the folder is ready to be resumed.
    write_text(folder / RECIPE, yaml.safe_dump(document, sort_keys=False))
    return folder


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in new:
        if isinstance(old.get(key), dict) and isinstance(new[key], dict):
            found += _differences(old[key], new[key], f"{prefix}{key}.")
        elif old.get(key) != new[key]:
            found.append(f"{prefix}{key}: {old.get(key)} -> {new[key]}")
    return found
