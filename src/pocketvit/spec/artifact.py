"""Artifacts on disk: a folder (or one zipped ``.pvit``) with a manifest, model files, goldens and a card.

Written to a temporary folder and renamed, so there are no half artifacts. Reading trusts nothing: names may not leave
the folder, archives may not unpack to more than they should, and NumPy files are read without pickle.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import tempfile
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pocketvit.errors import UsageError, VerificationError
from pocketvit.files import replacing, write_text, writing
from pocketvit.spec.manifest import FileEntry, Manifest, Variant
from pocketvit.spec.preprocess import Preprocess

MANIFEST, GOLDEN, CARD = "manifest.json", "golden.npz", "card.md"
MAX_ARCHIVE_BYTES, MAX_ARCHIVE_FILES = 4_000_000_000, 100
MAX_GOLDEN_BYTES = 1_000_000_000
LEFTOVER_SECONDS = 3600.0
_BROKEN_DATA = (zlib.error, lzma.LZMAError, struct.error, EOFError)
_BROKEN_ZIP = (*_BROKEN_DATA, zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, OSError)
"""What zipfile raises on damaged archives; UnicodeDecodeError (member names) is a ValueError."""


@dataclass(frozen=True)
class Golden:
    """Real inputs with the trained float model's outputs, and what they were made with."""

    inputs: NDArray[np.uint8]
    """(N, H, W, 3) uint8: model inputs after preprocessing."""
    outputs: Mapping[str, NDArray[np.float32]]
    """Output name to (N, ...) float32 of the trained float model (PyTorch)."""
    sources: tuple[NDArray[np.uint8], ...]
    """A few images before preprocessing, (h, w, 3) uint8 each; preprocessing them gives the first inputs."""
    truth: NDArray[np.generic]
    """(N, H, W, 3) uint8 clean images, or (N, levels) int64 classes: what the metric is computed against."""
    preprocess: Preprocess


@dataclass(frozen=True)
class Artifact:
    """An artifact that was found and whose manifest is valid; its files are not verified yet."""

    path: Path
    manifest: Manifest

    def variant(self, key: str | None = None) -> Variant:
        """The variant ``runtime:precision[@device]`` (default: the manifest's); the processor's for want of one.

        Raises:
            UsageError: the artifact holds no such variant.
        """
        wanted = key or self.manifest.default
        for key in (wanted, wanted.partition("@")[0]):
            for variant in self.manifest.variants:
                if variant.key == key:
                    return variant
        have = ", ".join(variant.key for variant in self.manifest.variants)
        raise UsageError(f"{self.manifest.name} holds no variant {wanted}.", f"It holds: {have}.")

    def variant_bytes(self, variant: Variant) -> int:
        """Bytes on disk of the files that ``variant`` needs, as measured now."""
        return sum((self.path / name).stat().st_size for name in (variant.path, *variant.companions))


def shipped_root() -> Path:
    """Folder of the artifacts that are package data; it may not exist in a checkout without them."""
    return Path(str(resources.files("pocketvit"))) / "models_shipped"


def shipped_names() -> list[str]:
    """Names of the artifacts that are package data, e.g. ``denoise-color``."""
    root = shipped_root()
    return sorted(p.name for p in root.iterdir() if (p / MANIFEST).is_file()) if root.is_dir() else []


def find_artifact(path_or_name: str | os.PathLike[str]) -> Path:
    """Folder of an artifact: a shipped name, an artifact or run folder, or a ``.pvit`` file (unpacked to a cache).

    Raises:
        UsageError: there is no such thing.
    """
    path = Path(path_or_name)
    if not path.exists() and str(path_or_name) in shipped_names():
        return shipped_root() / str(path_or_name)
    if path.is_file() and path.suffix == ".pvit":
        return _unpack(path)
    for folder in (path, path / "artifact"):
        if (folder / MANIFEST).is_file():
            return folder
    names = ", ".join(shipped_names()) or "none shipped"
    todo = f"Give a folder with a {MANIFEST}, a .pvit file or one of: {names}."
    raise UsageError(f"{path_or_name}: no artifact there.", todo)


def read_artifact(path_or_name: str | os.PathLike[str]) -> Artifact:
    """Find the artifact and parse its manifest.

    Raises:
        UsageError: nothing is there.
        VerificationError: the manifest is damaged, of another version, or names files outside the folder.
    """
    folder = find_artifact(path_or_name)
    todo = "Export it again, or copy the whole folder again."
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{folder / MANIFEST}: {'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}."
        raise VerificationError(what, todo) from error
    except OSError as error:
        raise VerificationError(f"{folder / MANIFEST}: cannot be read ({error.strerror or error}).", todo) from error
    except UsageError as error:  # Preprocess checks its own values
        raise VerificationError(f"{folder / MANIFEST}: {error.what}", todo) from error
    names = [entry.path for entry in manifest.files] + [n for v in manifest.variants for n in (v.path, *v.companions)]
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name:
            what = f"{folder / MANIFEST}: file name {name!r} leaves the artifact folder."
            raise VerificationError(what, "Do not use this artifact.")
    return Artifact(folder, manifest)


def read_golden(artifact: Artifact) -> Golden:
    """The goldens of ``artifact``.

    Raises:
        VerificationError: the file is missing, damaged, incomplete or unpacks to more than 1 GB.
    """
    path = artifact.path / GOLDEN
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_GOLDEN_BYTES:
                raise VerificationError(f"{path}: unpacks to more than goldens may hold.", "Do not use this artifact.")
        with np.load(path, allow_pickle=False) as file:
            data: dict[str, NDArray[Any]] = {key: file[key] for key in file.files}
        if not all(isinstance(value, np.ndarray) for value in data.values()):  # NumPy hands out the others as bytes
            raise ValueError("a member is no array")
        outputs = {key.removeprefix("output."): value for key, value in data.items() if key.startswith("output.")}
        sources = tuple(data[f"source.{i}"] for i in range(sum(key.startswith("source.") for key in data)))
        preprocess = json.loads(str(data["preprocess"]))
        preprocess |= {key: tuple(preprocess[key]) for key in ("size", "mean", "std")}
        return Golden(data["inputs"], outputs, sources, data["truth"], Preprocess(**preprocess))
    except (*_BROKEN_ZIP, MemoryError, KeyError, TypeError, SyntaxError, tokenize.TokenError, UsageError) as error:
        raise VerificationError(f"{path}: cannot be read ({error}).", "Export the artifact again.") from error


def write_golden(folder: Path, golden: Golden) -> None:
    """Write ``golden.npz`` (compressed, no pickle) into ``folder``."""
    arrays: dict[str, NDArray[np.generic]] = {
        "inputs": golden.inputs,
        "truth": golden.truth,
        "preprocess": np.array(json.dumps(golden.preprocess.to_dict())),
    }
    arrays |= {f"output.{name}": value for name, value in golden.outputs.items()}
    arrays |= {f"source.{i}": value for i, value in enumerate(golden.sources)}
    with writing(folder / GOLDEN):
        np.savez_compressed(folder / GOLDEN, **arrays)  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_variant_files(artifact: Artifact, variant: Variant) -> None:
    """Hold the files of one variant against the manifest, so that nothing is run that is not what was proven.

    Raises:
        VerificationError: a file is missing, truncated or changed.
    """
    entries = {entry.path: entry for entry in artifact.manifest.files}
    todo = "Do not use it: copy the artifact again from where it was verified."
    for name in (variant.path, *variant.companions):
        unlisted = f"{name} is needed but not listed in the manifest"
        if fault := file_fault(artifact.path, entries[name]) if name in entries else unlisted:
            raise VerificationError(f"{artifact.manifest.name}: {fault}.", todo)


def file_fault(folder: Path, entry: FileEntry) -> str:
    """What is wrong with a listed file: missing, truncated, too long or changed; empty where nothing is."""
    path = folder / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        fault = "truncated" if size < entry.bytes else "too long"
        return f"{entry.path} is {fault}: {size} bytes, the manifest says {entry.bytes}"
    same = sha256(path) == entry.sha256
    return "" if same else f"{entry.path} was changed: its sha256 is not the one in the manifest"


def file_entries(folder: Path) -> list[FileEntry]:
    """Entries for every file in ``folder`` but the manifest."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return [FileEntry(path=p.name, bytes=p.stat().st_size, sha256=sha256(p)) for p in files]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace ``manifest.json`` in one step.

    Raises:
        DataError: the folder cannot be written.
    """
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


@contextmanager
def new_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``destination`` and rename it there on success; on any error nothing is left.

    What a killed process left beside the same ``destination`` more than an hour ago is deleted first.

    Raises:
        UsageError: ``destination`` exists and ``replace`` is off.
        DataError: the disk is full or not writable.
    """
    if destination.exists() and not replace:
        raise UsageError(f"{destination} already exists.", "Choose another name or delete it first.")
    with writing(destination, "created"):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        with writing(destination):
            yield temporary
            temporary.chmod(0o755)
            if destination.exists():
                shutil.rmtree(destination)
            os.rename(temporary, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(destination: Path) -> None:
    """Delete old temporary folders of ``destination``; the name pattern is that of ``tempfile.mkdtemp``."""
    pattern = re.compile(re.escape(f".{destination.name}.") + "[a-z0-9_]{8}")
    with os.scandir(destination.parent) as entries:
        found = [entry for entry in entries if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
    for entry in found:
        with suppress(FileNotFoundError):  # another process has just finished or swept it
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


def pack(artifact: Artifact, destination: Path) -> Path:
    """Zip an artifact into one ``.pvit`` file and return its path."""
    with replacing(destination) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [MANIFEST, *(entry.path for entry in artifact.manifest.files)]:
            archive.write(artifact.path / name, name)
    return destination


def _unpack(path: Path) -> Path:
    """Unpack a ``.pvit`` into a cache folder named after its checksum, once."""
    try:
        root = Path(os.environ.get("POCKETVIT_CACHE", Path.home() / ".cache" / "pocketvit"))
        cache = root / "unpacked" / sha256(path)[:32]
        if not (cache / MANIFEST).is_file():
            with zipfile.ZipFile(path) as archive:
                _check_members(path, archive)
                with new_folder(cache, replace=True) as folder:
                    archive.extractall(folder)
    except _BROKEN_ZIP as error:
        raise VerificationError(f"{path}: is damaged ({error}).", "Copy it again.") from error
    return cache


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise ``VerificationError`` unless the members are as many, as large and so named as those of an artifact."""
    refuse = "Do not use this file; ask for it again."
    members = archive.infolist()
    if len(members) > MAX_ARCHIVE_FILES or sum(m.file_size for m in members) > MAX_ARCHIVE_BYTES:
        raise VerificationError(f"{path}: the archive unpacks to more than an artifact may hold.", refuse)
    for name in archive.namelist():
        if not name or PurePosixPath(name).name != name or "\\" in name or name.startswith("."):
            raise VerificationError(f"{path}: member {name!r} would leave the folder.", refuse)
    if MANIFEST not in archive.namelist():
        raise VerificationError(f"{path}: holds no {MANIFEST}.", refuse)
