"""The device side of the tasks, one record each; ``pocketvit.tasks.TORCH_TASKS`` holds the torch side by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from pocketvit.errors import UsageError, did_you_mean
from pocketvit.spec.tasks.base import Task, TaskConfig
from pocketvit.spec.tasks.classify import CLASSIFY
from pocketvit.spec.tasks.depth import DEPTH
from pocketvit.spec.tasks.detect import DETECT
from pocketvit.spec.tasks.restore import RESTORE
from pocketvit.spec.tasks.segment import SEGMENT
from pocketvit.spec.typed import short, strict

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, RESTORE, DEPTH, SEGMENT, DETECT)}
"""By name; the first one is what a recipe that names none means."""


def task_of(name: str) -> Task:
    """The record of a task.

    Raises:
        UsageError: there is no such task; the nearest name is proposed.
    """
    if isinstance(name, str) and name in TASKS:
        return TASKS[name]
    raise UsageError(f"unknown task {short(name)}.", did_you_mean(name, TASKS, f"Take one of {', '.join(TASKS)}."))


def config_of(document: Mapping[str, Any]) -> TaskConfig:
    """A recipe's ``task`` section as the dataclass of its task; ``name`` chooses it.

    Recipes resolved before each task had a section of its own state all keys of all tasks: what does not belong to this
    task is let pass where it says nothing (its default) and refused otherwise.

    Raises:
        UsageError: an unknown task or key (the nearest is proposed), or a value that the task refuses.
    """
    if not isinstance(document, Mapping):
        raise UsageError(
            f"task must be a mapping, not {short(document)}.", f"Write task: {{name: {next(iter(TASKS))}}}."
        )
    task = task_of(document.get("name", next(iter(TASKS))))
    known = {item.name for item in dataclasses.fields(task.config)}
    foreign = {
        item.name: (other.name, _plain(item.default))
        for other in TASKS.values()
        for item in dataclasses.fields(other.config)
        if item.name not in known
    }
    for key, value in document.items():
        if key in known:
            continue
        if key not in foreign:
            todo = did_you_mean(key, known, f"Known keys: {', '.join(sorted(known))}.", "task.{}")
            raise UsageError(f"unknown key task.{str(key)[:60]}.", todo)
        owner, default = foreign[key]
        if _plain(value) != default:
            raise UsageError(f"task.{key} does not go with task.name {task.name}.", f"Leave it out; it is for {owner}.")
    try:
        return strict(task.config, {key: document[key] for key in document if key in known}, "task")
    except UsageError as error:
        raise UsageError(error.what, f"{error.todo} The task is task.name {task.name}.") from error


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


def settings_of(config: TaskConfig) -> dict[str, Any]:
    """What a task's section says beyond its name and defaults, in plain types: what a manifest keeps of it."""
    plain = {item.name: _plain(item.default) for item in dataclasses.fields(config)}
    return {key: value for key, value in config_document(config).items() if key != "name" and value != plain[key]}


def config_document(config: TaskConfig) -> dict[str, Any]:
    """A task's section in plain types, as recipes and checkpoints hold it."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")  # type: ignore[no-any-return]
