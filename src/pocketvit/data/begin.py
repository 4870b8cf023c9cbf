"""A first recipe for a folder of photos: how they lie decides layout and task, and the reasons are said."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pocketvit.data import layouts
from pocketvit.data.box_layouts import has_coco, has_yolo
from pocketvit.data.depth_layouts import has_depth, has_frames
from pocketvit.data.mask_layouts import has_masks
from pocketvit.errors import DataError, UsageError
from pocketvit.files import writing
from pocketvit.spec.images import list_images, readable_suffixes
from pocketvit.spec.manifest import NAME_PATTERN
from pocketvit.spec.recipe import Recipe, flat, load_recipe
from pocketvit.spec.tasks import TASKS, task_of

SPLITS = {"val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names of folders, in any case, beside ``train`` that hold the other parts."""
COMMENTS = {
    "data": "Folders or list files. Without val a share (val_share) is split off; test is scored once, at the end.",
    "model": "A variant or timm:NAME. weights: start from a .safetensors file or a checkpoint, which most data need.",
    "task": "What the model does.",
    "preprocess": "How a photo becomes the model's input.",
    "train": "Ends after minutes or epochs, whichever comes first.",
    "budget": "Limits that the artifact must meet: latency_ms, size_mb, memory_mb.",
}


def _pairs(root: Path) -> str:
    try:
        found, _ = layouts.read_pairs(root, "train")
    except DataError:
        return ""
    return f"it holds {len(found)} pairs of a degraded and a clean photo" if found else ""


def _sidd(root: Path) -> str:
    data = root / "Data" if (root / "Data").is_dir() else root
    return "its folders hold NOISY_SRGB and GT_SRGB photos" if any(data.glob("*/GT_SRGB_*")) else ""


def _gopro(root: Path) -> str:
    sharp = next((path for path in root.rglob("sharp") if path.is_dir()), None)
    return "its folders hold blur and sharp frames" if sharp and any(sharp.parent.glob("blur*")) else ""


def _classes(root: Path) -> str:
    files = list_images(root)
    names = {path.relative_to(root).parts[0] for path in files if path.parent != root}
    loose = any(path.parent == root for path in files)
    return f"it holds {len(names)} folders of photos, taken as classes" if len(names) > 1 and not loose else ""


def _clean(root: Path) -> str:
    return f"it holds {len(list_images(root))} photos and no class folders or pairs; noise is added to them"


def _frames(root: Path) -> str:
    return "it holds frames with depth (*.depth.png)" if has_frames(root) else ""


def _maps(root: Path) -> str:
    count = has_depth(root)
    return f"it holds {count} photos with depth maps" if count else ""


def _masks(root: Path) -> str:
    count = has_masks(root)
    return f"it holds {count} photos with masks" if count else ""


def _coco(root: Path) -> str:
    return "it holds a JSON file of boxes (instances*.json)" if has_coco(root) else ""


def _yolo(root: Path) -> str:
    return "it holds images/ and labels/ with text files" if has_yolo(root) else ""


SIGNS: dict[str, Callable[[Path], str]] = {
    **{"coco": _coco, "yolo": _yolo},
    **{"scenes7": _frames, "depth": _maps, "masks": _masks},
    **{"sidd": _sidd, "pairs": _pairs, "gopro": _gopro},
    **{"classes": _classes, "clean": _clean},
}
"""By layout: why a folder has it, or nothing; the first that has a reason is taken. Others must be named."""


@dataclass(frozen=True)
class InitReport:
    """The recipe that was written."""

    path: Path
    command: str
    notes: tuple[str, ...]
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"recipe": str(self.path), "command": self.command, "notes": list(self.notes)}

    def render(self) -> str:
        """Lines for people."""
        return "\n".join([*self.notes, f"recipe: {self.path}", f"next:   {self.command}"])


def begin(source: str | Path | Recipe, overrides: dict[str, Any]) -> tuple[str | Path | Recipe, tuple[str, ...]]:
    """What a command shall run: ``source`` itself, or where that is a folder a recipe for it, and why it looks so.

    Raises:
        DataError: the folder holds no photos. UsageError: there is no such folder or recipe, it is a photo, or the
            layout or task that ``overrides`` name do not exist.
    """
    if isinstance(source, Recipe) or Path(source).suffix.lower() in (".yaml", ".yml"):
        return source, ()
    if Path(source).suffix.lower() in readable_suffixes():
        raise UsageError(f"{source}: is a photo, not a recipe.", "Name the folder that it lies in.")
    if not os.path.exists(source):
        raise UsageError(f"{source}: no such recipe, and no folder of photos.", "Check the path.")
    if not os.path.isdir(source):
        return source, ()
    document, notes = first_recipe(Path(source), overrides)
    return load_recipe(document), notes


def first_recipe(root: Path, overrides: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sections of a recipe for the photos below ``root``, and what was taken for what; raises as :func:`begin`."""
    given = flat(overrides)
    photos = list_images(root)  # says that there are none
    trained, parts = _part(root, ("train", "training")), {part: _part(root, names) for part, names in SPLITS.items()}
    names = {path.relative_to(root).parts[0] for path in photos}
    alone = trained is not None and names == {trained.name}
    inner = root / min(names)
    signed = any(sign(root) for sign in SIGNS.values() if sign is not _clean)
    if len(names) == 1 and not (alone or signed) and inner.is_dir():
        return first_recipe(inner, overrides)  # as archives unpack
    train = trained if trained and (alone or any(parts.values())) else root
    wanted = given.get("data.layout")
    sees = given.get("task.name")
    usable = [name for name in SIGNS if sees is None or name in task_of(sees).layouts]
    reasons = ((name, SIGNS[name](train)) for name in usable)
    layout, why = (wanted, "as asked") if wanted else next(((n, why) for n, why in reasons if why), ("", ""))
    task = next((t for t in TASKS.values() if layout in t.layouts and sees in (None, t.name)), None)
    if task is None:
        known = ", ".join(dict.fromkeys(name for t in TASKS.values() for name in t.layouts))
        raise UsageError(f"{root}: no task reads it as it lies.", f"Name --data.layout, one of {known}.")
    data: dict[str, Any] = {"train": [str(train.absolute())], "layout": layout}
    if train != root:
        data |= {part: [str(folder.absolute())] for part, folder in parts.items() if folder}
    elif layout in layouts.SPLIT_THEMSELVES:
        data["val"] = data["train"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._")
    document: dict[str, Any] = {"name": name if re.fullmatch(NAME_PATTERN, name) else "photos", "data": data}
    document |= {"task": {"name": task.name}, **{section: dict(values) for section, values in task.start.items()}}
    if "model.name" in given:  # the weights are of another model
        document["model"] = {}
    weights = given.get("model.weights") or document.get("model", {}).get("weights")
    start = f"starts from the weights {weights}" if weights else "starts from random weights (name --model.weights)"
    model = given.get("model.name") or document.get("model", {}).get("name") or Recipe().model.name
    notes = (
        f"{root}: {why}: data.layout {layout}, task.name {task.name}; other choices: --data.layout, --task.name.",
        f"model.name {model} {start}; sizes and minutes are chosen for a processor without a GPU.",
    )
    return document, notes


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def init(photos: str, *, out: str = "recipe.yaml") -> InitReport:
    """Write a commented recipe for a folder of photos, to be edited; a file that is there is never overwritten.

    Args:
        photos: folder with class folders, with pairs (noisy/ and clean/), or with clean photos.
        out: file to write.

    Raises:
        UsageError: there is no such folder, or the file is there already.
        DataError: the folder holds no photos, or the file cannot be written.
    """
    root, path = Path(photos), Path(out)
    if not os.path.isdir(photos):
        raise UsageError(f"{photos or 'an empty name'}: no such folder.", "Name the folder that holds the photos.")
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already.", "Name another --out, or delete it.")
    document, notes = first_recipe(root, {})
    command = f"pocketvit fit {path}"
    lines = [f"# {command}", *(f"# {note}" for note in notes), ""]
    for section, value in (document | {"budget": {"latency_ms": 30.0}}).items():
        lines += [f"# {COMMENTS[section]}"] if section in COMMENTS else []
        flow = None if isinstance(value, dict) else False
        lines += [yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True, default_flow_style=flow)]
    with writing(path), path.open("x", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return InitReport(path, command, notes)
