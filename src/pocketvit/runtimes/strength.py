"""The knob of an artifact: whether its task has one, and whether a value is in its range."""

from __future__ import annotations

from pocketvit.errors import UsageError
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.typed import Range, short


def check_strength(manifest: Manifest, strength: float | None) -> None:
    """Raise ``UsageError`` unless the artifact can work at this strength; None is as trained and always allowed.

    The range is the manifest's, or the task's where it states none (artifacts that are older than the field).
    """
    task = TASKS[manifest.task]
    if strength is None:
        return
    if task.strength is None or task.adjust is None:
        what = f"strength goes with pictures to blend; {manifest.name} {task.purpose}."
        raise UsageError(what, "Leave it out.")
    knob = manifest.strength or task.strength
    if strength not in (allowed := Range(knob.low, knob.high)):
        what = f"strength of {manifest.name} must be a number of {allowed}, not {short(strength)}."
        raise UsageError(what, f"{knob.default:g} is as trained; {knob.meaning}.")
