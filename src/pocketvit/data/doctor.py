"""The command ``pocketvit doctor``: decode every image of a data set in parallel and list what is wrong with it."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.data import layouts
from pocketvit.data.box_check import BoxReport
from pocketvit.data.depth_check import DepthReport
from pocketvit.data.inspect import Finding, inspect_file
from pocketvit.data.mask_check import MaskReport
from pocketvit.data.noise_report import FolderNoise
from pocketvit.data.quarantine import FILE_NAME, folder_of, quarantined, write_list
from pocketvit.data.truth_check import asked
from pocketvit.errors import DataError, UsageError
from pocketvit.files import keep_others, write_json
from pocketvit.progress import track
from pocketvit.spec.images import IMAGE_SUFFIXES, folders_below, list_images, not_looked_at
from pocketvit.terminal import shown

_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLITS = {name: split for split, names in _NAMES.items() for name in names}
"""Folder name -> split, to tell copies within a split from copies that leak from one into another."""
MAX_WORKERS = 256
_SHOWN = 8
_MARK = '{\n "ok": '
"""How reports begin."""


@dataclass(frozen=True)
class Duplicates:
    """Files with the same content."""

    paths: tuple[str, ...]
    same: str
    """``file`` (byte for byte) or ``pixels`` (other bytes, same decoded picture)."""
    across: tuple[str, ...] = ()
    """The splits or data sets that share it, where there is more than one."""


@dataclass(frozen=True)
class DoctorReport:
    """What the doctor found. Paths are as given on the command line; every list is sorted."""

    data: tuple[str, ...]
    images: int
    """Files inspected; quarantined ones are not among them unless they were quarantined just now."""
    bytes: int
    seconds: float
    damaged: dict[str, str]
    """File -> why it cannot be decoded."""
    mislabelled: dict[str, str]
    """File -> format that it really has."""
    duplicates: tuple[Duplicates, ...]
    tiny: dict[str, str]
    """File -> ``WxH``."""
    huge: dict[str, str]
    rotated: tuple[str, ...]
    """Files turned by their EXIF orientation."""
    animated: tuple[str, ...]
    """Files with several frames, of which the first is used."""
    classes: dict[str, int]
    """Images per folder (relative to the data) or per label of a list."""
    empty_folders: tuple[str, ...]
    skipped: int = 0
    """Files left out because they stand in a quarantine list."""
    quarantine: tuple[str, ...] = ()
    """Quarantine lists written in this run; damaged files are in them."""
    notes: tuple[str, ...] = ()
    """Files in the folders that are no images, counted by type."""
    noise: FolderNoise | None = None
    """Where it was asked for."""
    depth: DepthReport | None = None
    """Where it was asked for."""
    masks: MaskReport | None = None
    """Where it was asked for."""
    boxes: BoxReport | None = None
    """Where it was asked for."""

    @property
    def wrong(self) -> set[str]:
        """Files that readers stumble over: damaged ones, and depth maps and masks that cannot be used."""
        return {*self.damaged, *(str(path) for each in (self.depth, self.masks) if each for path in each.errors)}

    @property
    def ok(self) -> bool:
        """Nothing is left that a reader would stumble over."""
        return not self.wrong or bool(self.quarantine)

    @property
    def exit_code(self) -> int:
        """0, or 3 if there are damaged images, depth maps or masks that are not quarantined."""
        return 0 if self.ok else DataError.exit_code

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["duplicates"] = [vars(group) for group in self.duplicates]
        plain["noise"] = self.noise.to_dict() if self.noise else None
        plain["depth"] = self.depth.to_dict() if self.depth else None
        plain["masks"] = self.masks.to_dict() if self.masks else None
        plain["boxes"] = self.boxes.to_dict() if self.boxes else None
        return {"ok": self.ok, **plain}

    def render(self) -> str:
        """Lines for people: each kind of finding with its number and the first few files."""
        skipped = f"; {self.skipped} quarantined files skipped" if self.skipped else ""
        lines = [f"{self.images} images, {self.bytes / 1e6:.1f} MB, in {self.seconds:.1f} s{skipped}"]
        sections: dict[str, Sequence[str]] = {
            "damaged": [f"{path}: {reason}" for path, reason in self.damaged.items()],
            "mislabelled": [f"{path}: is {kind}" for path, kind in self.mislabelled.items()],
            "in several splits": [_duplicate_line(group) for group in self.duplicates if group.across],
            "duplicate": [_duplicate_line(group) for group in self.duplicates if not group.across],
            "tiny": [f"{path}: {size}" for path, size in self.tiny.items()],
            "huge": [f"{path}: {size}" for path, size in self.huge.items()],
            "turned by EXIF": self.rotated,
            "animated (first frame used)": self.animated,
            "folders without images": self.empty_folders,
        }
        for title, entries in sections.items():
            if entries:
                lines += [f"{title}: {len(entries)}", *(f"  {shown(entry)}" for entry in entries[:_SHOWN])]
            if len(entries) > _SHOWN:
                lines.append(f"  ... and {len(entries) - _SHOWN} more (--json lists all)")
        if len(self.classes) > 1:
            few, many = min(self.classes, key=self.classes.__getitem__), max(self.classes, key=self.classes.__getitem__)
            span = f"from {self.classes[few]} images ({shown(few)}) to {self.classes[many]} ({shown(many)})"
            lines.append(f"{len(self.classes)} classes or folders, {span}")
        lines += self.noise.lines(_SHOWN) if self.noise else []
        lines += [line for each in (self.depth, self.masks, self.boxes) if each for line in each.lines(_SHOWN)]
        lines += self.notes
        if self.quarantine:
            lines.append(
                f"{len(self.wrong)} damaged files are left out from now on: {shown(', '.join(self.quarantine))}"
            )
        elif self.wrong:
            also = (f" --depth {self.depth.layout}" if self.depth else "") + " --masks" * bool(self.masks)
            lines.append(f"Leave them out with: pocketvit doctor {shown(self.data[0])}{also} --quarantine")
        else:
            lines.append("every image can be decoded")
        return "\n".join(lines)


def doctor(
    data: str,
    *,
    others: Sequence[str] = (),
    quarantine: bool = False,
    small: int = 32,
    huge_megapixels: float = 50.0,
    noise: bool = False,
    depth: str = "",
    masks: bool = False,
    boxes: str = "",
    workers: int | None = None,
    out: str | None = None,
) -> DoctorReport:
    """Decode every image; report damaged, mislabelled, duplicate, tiny, huge and turned ones, and images per class.

    Args:
        data: folder, or list file with one image path a line.
        others: further folders or lists (validation, test) to inspect with it; copies between them are reported.
        quarantine: list damaged files in ``pocketvit-quarantine.txt`` in the data folder; all readers then leave them
            out. Nothing is moved or deleted.
        small: images with a side below so many pixels are reported as tiny.
        huge_megapixels: images with more pixels are reported as huge.
        noise: also estimate the noise of each photo: level, grain, dependence on brightness, JPEG settings.
        depth: also check the depth maps of this layout (depth, scenes7, kitti, nyu): share of valid pixels, range in
            metres, unit, and whether they fit their photos.
        masks: also check the masks of layout masks: sizes, class indices, and how the classes share the pixels.
        boxes: also read the boxes of this layout (coco, yolo, kitti-objects): how many of each class, their sizes, and
            those that look like mistakes.
        workers: threads; all cores by default.
        out: also write the whole report to this JSON file; an older report there is replaced, nothing else is.

    Returns:
        The report; its ``exit_code`` is 3 if damaged images are left.

    Raises:
        DataError: a folder is missing or holds no image, a list names files that do not exist, a box cannot be used, or
            ``out`` or a quarantine list cannot be written.
        UsageError: a limit or the number of workers makes no sense, or ``out`` is there and no report.
    """
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    _check_options(small, huge_megapixels, workers, out)
    began = time.monotonic()
    others = [others] if isinstance(others, str | os.PathLike) else others
    roots = [Path(root) for root in dict.fromkeys((data, *others))]
    files, classes, skipped = _collect(roots)
    beside = asked(roots, depth, masks, boxes)
    findings = _findings(files, noise, beside.depth_files, workers)
    truths = beside.check(workers)
    damaged = [f for f in findings if f.error]
    owner = {f.path: files[f.path] for f in damaged} | {path: _owner(path, roots) for path in truths.errors}
    by_root = {root: [path for path, own in owner.items() if own == root] for root in roots if quarantine}
    lists = [write_list(folder_of(root), mine) for root, mine in by_root.items() if mine]
    report = DoctorReport(
        data=tuple(str(root) for root in roots),
        images=len(findings),
        bytes=sum(f.bytes for f in findings),
        seconds=round(time.monotonic() - began, 3),
        damaged={str(f.path): f.error for f in damaged},
        mislabelled={str(f.path): f.format for f in findings if f.mislabelled},
        duplicates=tuple(_duplicates(findings, files, roots)),
        tiny={str(f.path): f"{f.width}x{f.height}" for f in findings if f.format and min(f.width, f.height) < small},
        huge={str(f.path): f"{f.width}x{f.height}" for f in findings if f.megapixels > huge_megapixels},
        rotated=tuple(str(f.path) for f in findings if f.rotated),
        animated=tuple(str(f.path) for f in findings if f.frames > 1),
        classes=classes,
        empty_folders=tuple(_empty_folders(roots)),
        skipped=skipped,
        quarantine=tuple(str(file) for file in lists),
        noise=FolderNoise({str(f.path): f.noise for f in findings if f.noise}) if noise else None,
        **vars(truths),
        notes=tuple(f"{root}: {line}" for root in roots if root.is_dir() for line in not_looked_at(root)),
    )
    if out is not None:
        write_json(Path(out), report.to_dict())
    return report


def _check_options(small: int, huge_megapixels: float, workers: int, out: str | None) -> None:
    """Raise ``UsageError`` for what the doctor cannot do."""
    if small < 0 or not 0 < huge_megapixels < math.inf or not 1 <= workers <= MAX_WORKERS:
        what = f"small must be at least 0, huge_megapixels positive and workers at least 1 and at most {MAX_WORKERS}."
        raise UsageError(what, "Leave them out for the defaults.")
    if out is not None and Path(out).suffix.lower() != ".json":
        raise UsageError(f"out {out} does not end in .json.", "The report is JSON; name a file for it.")
    if out is not None:
        keep_others(Path(out), _MARK)


def _findings(files: Iterable[Path], noise: bool, maps: Collection[Path], workers: int) -> list[Finding]:
    """What there is to say of each file; ``maps`` are no photos."""
    paths, found = list(files), list[Finding]()
    with ThreadPoolExecutor(workers) as pool, track("doctor", len(paths)) as advance:
        for finding in pool.map(lambda path: inspect_file(path, noise, path.resolve() in maps), paths):
            found.append(finding)
            advance()
    return found


def _owner(path: Path, roots: Sequence[Path]) -> Path:
    """The root that a depth map or mask lies below; the first one for those that lie elsewhere."""
    return next((root for root in roots if root in path.parents), roots[0])


def _collect(roots: Sequence[Path]) -> tuple[dict[Path, Path], dict[str, int], int]:
    """File -> root for all files to inspect (each file once), images per class, and how many files are quarantined."""
    files: dict[Path, Path] = {}
    classes: Counter[str] = Counter()
    seen: set[Path] = set()
    for root in roots:
        hidden = quarantined(root)
        for path, label in _entries(root):
            resolved = path.resolve()
            if resolved not in seen and resolved not in hidden:
                files[path] = root
                label = layouts.same_name(label)
                classes[label if len(roots) == 1 or not label else f"{root}: {label}"] += 1
            seen.add(resolved)
    del classes[""]
    if not files:
        what = f"{', '.join(map(str, roots))}: all {len(seen)} images are quarantined."
        raise DataError(what, f"Delete lines from {FILE_NAME} to use files again.")
    return files, dict(sorted(classes.items())), len(seen) - len(files)


def _entries(root: Path) -> list[tuple[Path, str]]:
    """Files below a root with the class they seem to belong to: the folder, or the label in a list."""
    if os.path.isdir(root):
        return [(path, path.parent.relative_to(root).as_posix().removeprefix(".")) for path in list_images(root)]
    if root.suffix.lower() in IMAGE_SUFFIXES:
        return [(row.path, "") for row in layouts.read_clean(root, "train")[0]]
    if root.suffix.lower() == ".json":
        return [(row.path, "") for row in layouts.read_coco(root, "train")[0]]
    try:
        rows = layouts.read_list(root, "train")[0]
    except DataError:
        rows = layouts.read_clean(root, "train")[0]  # a list of bare paths; what is wrong with it is raised from here
    return [(row.path, " > ".join(row.labels)) for row in rows]


def _duplicates(findings: Sequence[Finding], files: dict[Path, Path], roots: Sequence[Path]) -> Iterator[Duplicates]:
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.bytes:
            groups[finding.pixels or finding.sha256].append(finding)
    for group in (each for each in groups.values() if len(each) > 1):
        splits = sorted({_split_of(finding.path, files[finding.path], roots) for finding in group})
        same = "file" if len({finding.sha256 for finding in group}) == 1 else "pixels"
        yield Duplicates(tuple(str(finding.path) for finding in group), same, tuple(splits) if len(splits) > 1 else ())


def _split_of(path: Path, root: Path, roots: Sequence[Path]) -> str:
    """Name of the split: a train, val or test folder below the root, else the root itself."""
    inner = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    named = next((SPLITS[part.lower()] for part in inner if part.lower() in SPLITS), "")
    if len(roots) == 1:
        return named
    return f"{root}:{named}" if named else str(root)


def _empty_folders(roots: Sequence[Path]) -> Iterator[str]:
    for root in filter(os.path.isdir, roots):
        used = {folder for path in list_images(root) for folder in path.parents}
        folders = (path for path in folders_below(root) if path != root)
        yield from sorted(str(folder) for folder in folders if folder not in used)


def _duplicate_line(group: Duplicates) -> str:
    names = " = ".join(group.paths[:4]) + (f" = {len(group.paths) - 4} more" if len(group.paths) > 4 else "")
    return names + (" (same pixels, other file)" if group.same == "pixels" else "")
