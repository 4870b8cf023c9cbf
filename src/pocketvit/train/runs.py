"""Run folders: the resolved recipe, the environment, and the rule that a run resumes but never overwrites a finished one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import Recipe, load_recipe

RECIPE, FINISHED = "recipe.yaml", "finished.json"


def open_run(recipe: Recipe, name: str, runs: str) -> Path:
    """Create or re-enter ``runs/name``.

    Raises:
        UsageError: the run is finished, or was begun with another recipe.
        DataError: the folder cannot be written.
    """
    folder = Path(runs) / name
    if (folder / FINISHED).exists():
        raise UsageError(f"the run {folder} is finished.", "Choose another --name, or delete the folder to start over.")
    if (folder / RECIPE).exists():
        begun = load_recipe(folder / RECIPE).to_dict()
        if changed := _differences(begun, recipe.to_dict()):
            raise UsageError(f"the run {folder} was begun with another recipe ({changed[0]}).", "Undo the change to resume, or choose another --name.")
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "environment.json").write_text(json.dumps(environment() | {"seed": recipe.train.seed}, indent=1), encoding="utf-8")
        (folder / RECIPE).write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}).", "Check --runs, free space and permissions.") from error
    return folder


def finish_run(folder: Path, summary: dict[str, Any]) -> None:
    """Mark the run as finished."""
    (folder / FINISHED).write_text(json.dumps(summary, indent=1), encoding="utf-8")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in new:
        if isinstance(old.get(key), dict) and isinstance(new[key], dict):
            found += _differences(old[key], new[key], f"{prefix}{key}.")
        elif old.get(key) != new[key]:
            found.append(f"{prefix}{key}: {old.get(key)} -> {new[key]}")
    return found
