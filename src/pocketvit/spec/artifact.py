"""Artifacts on disk: a folder (or one zipped ``.pvit``) with a manifest, model files, goldens and a card.

Written to a temporary folder and renamed, so there are no half artifacts. Reading trusts nothing: names may not leave
the folder, archives may not unpack to more than they should, and NumPy files are read without pickle.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.files import names_in, replacing, sweep_old, write_text, writing
from pocketvit.spec.manifest import FileEntry, Manifest, Variant
from pocketvit.spec.parsing import MAX_BYTES, parse_manifest, plain_name

MANIFEST, GOLDEN, CARD = "manifest.json", "golden.npz", "card.md"
HALVES = ("head", "tail")
"""Folders of the two artifacts that a split model is exported to."""
MAX_ARCHIVE_BYTES, MAX_ARCHIVE_FILES = 4_000_000_000, 100
MAX_RATIO, FREE_BYTES = 100, 10_000_000
"""An archive may unpack to so many times its size and these bytes: weights and goldens hardly pack."""
CACHE_VARIABLE = "POCKETVIT_CACHE"
REFUSED = "Do not use this file; ask for it again."
_CACHE_TODO = f"Set {CACHE_VARIABLE} to a folder that can be written, or unzip the file and name the folder."
CANDIDATE = ".artifact.candidate"
"""Where a run writes its artifact before it is proven."""
BROKEN_DATA = (zlib.error, lzma.LZMAError, struct.error, EOFError)
BROKEN_ZIP = (*BROKEN_DATA, zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, OSError)
"""What zipfile raises on damaged archives; UnicodeDecodeError (member names) is a ValueError."""


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
        """Bytes on disk of the files that ``variant`` needs, as measured now.

        Raises:
            VerificationError: one is missing.
        """
        files = [self.path / name for name in (variant.path, *variant.companions)]
        for file in files:
            if not file.is_file():
                raise VerificationError(f"{file}: the file is missing.", "Copy the whole folder again.")
        return sum(file.stat().st_size for file in files)


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
    try:
        path = Path(os.fsdecode(path_or_name))
    except TypeError as error:
        what = f"a {type(path_or_name).__name__} is no artifact."
        raise UsageError(what, f"Give a folder with a {MANIFEST}, a .pvit file or a name.") from error
    if path.suffix.lower() == ".pvit" and os.path.isfile(path):
        return _unpack(path)
    for folder in (path, path / "artifact"):
        if os.path.isfile(folder / MANIFEST):
            return folder
    if all(os.path.isfile(path / half / MANIFEST) for half in HALVES):
        what = f"{str(path_or_name)[:200]}: holds the two halves of a split model."
        raise UsageError(what, f"Name one of them: {path / HALVES[0]} or {path / HALVES[1]}.")
    if str(path_or_name) in shipped_names():  # also where a folder of that name holds something else
        return shipped_root() / str(path_or_name)
    if os.path.isdir(path / "best") or os.path.isdir(path / "trials"):
        raise _without_artifact(path)
    near = difflib.get_close_matches(str(path_or_name)[:200], shipped_names(), n=1, cutoff=0.7)
    names = ", ".join(shipped_names()) or "none shipped"
    todo = f"Give a folder with a {MANIFEST}, a run that has one, a .pvit file or one of: {names}."
    todo = f"Did you mean {near[0]}?" if near else todo
    raise UsageError(f"{str(path_or_name)[:200]}: no artifact there.", todo)


def _without_artifact(run: Path) -> UsageError:
    """The error for a run that was trained and not fitted, or whose fit has not come to its end: what comes next."""
    recipe, as_it_is = run / "recipe.yaml", f"pocketvit export {run} {run / 'artifact'} --data PHOTOS"
    if os.path.isdir(run / "trials"):
        what, todo = "a fit", f"Go on with it: pocketvit fit {recipe} --name {run.name} --runs {run.parent}"
    else:
        command = f"pocketvit compress {recipe} --checkpoint {run} --name {run.name}-compress --runs {run.parent}"
        what, todo = "trained", f"Fit it to its target: {command}"
    if not recipe.is_file():
        return UsageError(f"{str(run)[:200]}: a run without an artifact.", f"Make one of its weights: {as_it_is}")
    return UsageError(
        f"{str(run)[:200]}: {what}, a run without an artifact.", f"{todo} (its weights alone: {as_it_is})"
    )


def read_artifact(path_or_name: str | os.PathLike[str]) -> Artifact:
    """Find the artifact and parse its manifest.

    Raises:
        UsageError: nothing is there.
        VerificationError: the manifest is damaged, of another version, or names files outside the folder.
    """
    folder = find_artifact(path_or_name)
    try:
        large = (folder / MANIFEST).stat().st_size > MAX_BYTES
        content = b"" if large else (folder / MANIFEST).read_bytes()
    except OSError as error:
        what = f"{folder / MANIFEST}: cannot be read ({error.strerror or error})."
        raise VerificationError(what, "Copy the whole folder again.") from error
    if large:
        raise VerificationError(f"{folder / MANIFEST}: is larger than a manifest may be.", REFUSED)
    return Artifact(folder, _parse(folder / MANIFEST, content))


def _parse(where: Path, content: bytes) -> Manifest:
    try:
        return parse_manifest(content)
    except ValueError as error:
        todo = "Do not use it: export the artifact again, or copy it again from where it was verified."
        raise VerificationError(f"{where}: {error}.", todo) from error


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
        # The pattern is that of tempfile.mkdtemp.
        sweep_old(destination.parent, re.compile(re.escape(f".{destination.name}.") + "[a-z0-9_]{8}"), folders=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        with writing(destination):
            yield temporary
            temporary.chmod(0o755)
            aside = temporary.with_name(f"{temporary.name}.old")
            if destination.exists():  # deleted last: where the new folder cannot take its place, it goes back
                os.rename(destination, aside)
            try:
                os.rename(temporary, destination)
            except OSError:
                if aside.exists():
                    os.rename(aside, destination)
                raise
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(destination: Path) -> None:
    """Hold what lies at ``destination`` against what may be deleted: nothing, an empty folder, or an artifact alone.

    Raises:
        UsageError: anything else lies there, or there too; nothing was touched.
    """
    if not os.path.lexists(destination):
        return
    todo = "Choose another folder, or delete it yourself."
    if destination.is_symlink() or not destination.is_dir():
        raise UsageError(f"{destination} is no folder of an artifact and is not replaced.", todo)
    there = set(names_in(destination))
    if not there:
        return
    if MANIFEST not in there:
        raise UsageError(f"{destination} holds no artifact and is not replaced.", todo)
    try:
        manifest = read_artifact(destination).manifest
    except VerificationError as error:
        raise UsageError(f"{destination} is not replaced: {error.what}", todo) from error
    if strange := sorted(there - {MANIFEST, *(entry.path for entry in manifest.files)}):
        what = f"{destination} is not replaced: {strange[0]} in it is no part of the artifact."
        raise UsageError(what, "Move it elsewhere, or choose another folder.")


def pack(artifact: Artifact, destination: Path) -> Path:
    """Zip an artifact into one ``.pvit`` file, the manifest first, read it back, and return its path.

    The same artifact gives the same bytes on every day.

    Raises:
        VerificationError: the archive does not hold what the manifest lists; ``destination`` is as it was.
        DataError: ``destination`` cannot be written.
    """
    document = (artifact.path / MANIFEST).read_bytes()
    wanted = {MANIFEST: hashlib.sha256(document).hexdigest()}
    wanted |= {entry.path: entry.sha256 for entry in sorted(artifact.manifest.files, key=lambda entry: entry.path)}
    with replacing(destination) as partial:
        with zipfile.ZipFile(partial, "w") as archive:
            for name in wanted:
                member = zipfile.ZipInfo(name)  # of 1980
                member.compress_type, member.external_attr, member.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
                archive.writestr(member, document if name == MANIFEST else (artifact.path / name).read_bytes())
        with zipfile.ZipFile(partial) as archive:
            read = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        if wrong := [name for name in wanted if read.get(name) != wanted[name]]:
            raise VerificationError(f"{destination}: {wrong[0]} does not read back.", "Write it again, elsewhere.")
    return destination


def _unpack(path: Path) -> Path:
    """Unpack a ``.pvit`` into a cache folder named after its checksum, and only what its manifest lists.

    It is done once, and again where the folder was damaged since: to copy a sound archive again would not help.
    """
    try:
        cache = cache_root(path) / "unpacked" / sha256(path)[:32]
        with writing(cache, "read"):
            ready = _is_whole(cache)
        if not ready:
            unpack(path, cache)
    except DataError as error:
        raise DataError(error.what, _CACHE_TODO) from error
    except OSError as error:
        raise VerificationError(f"{path}: is damaged ({error}).", "Copy it again.") from error
    return cache


def unpack(path: Path, destination: Path) -> Path:
    """Unpack a ``.pvit`` to the folder ``destination``: what its manifest lists and nothing else, whole or not at all.

    A folder that is there already is replaced.

    Raises:
        VerificationError: the archive is damaged, or holds something else than its manifest says.
        DataError: ``destination`` cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _check_members(path, archive)
            with new_folder(destination, replace=True) as folder:
                archive.extractall(folder)
                for fault in filter(None, (file_fault(folder, entry) for entry in entries)):
                    raise VerificationError(f"{path}: {fault}.", REFUSED)
    except BROKEN_ZIP as error:
        raise VerificationError(f"{path}: is damaged ({error}).", "Copy it again.") from error
    return destination


def _is_whole(folder: Path) -> bool:
    """Whether a folder that was unpacked before holds a manifest and all that it lists."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        entries = _parse(folder / MANIFEST, (folder / MANIFEST).read_bytes()).files
    except VerificationError:
        return False
    return not any(file_fault(folder, entry) for entry in entries)


def cache_root(path: Path, todo: str = _CACHE_TODO) -> Path:
    """Folder that files like ``path`` are unpacked below, so that it is done once.

    Raises:
        DataError: there is no home folder, and none is named; with ``todo``.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    try:
        return Path.home() / ".cache" / "pocketvit"
    except RuntimeError as error:
        raise DataError(f"{path}: there is no home folder to unpack it in.", todo) from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> list[FileEntry]:
    """What the manifest lists, where the members are just that in name, number and size; nothing is unpacked yet.

    Raises:
        VerificationError: they are not, or the manifest is damaged.
    """
    members = {member.filename: member.file_size for member in archive.infolist()}
    total, most = sum(members.values()), FREE_BYTES + MAX_RATIO * path.stat().st_size
    if len(archive.infolist()) > MAX_ARCHIVE_FILES or total > min(most, MAX_ARCHIVE_BYTES):
        raise VerificationError(f"{path}: the archive unpacks to more than an artifact may hold.", REFUSED)
    for name in members:
        if not plain_name(name) or name.startswith("."):
            raise VerificationError(f"{path}: member {name!r} would leave the folder.", REFUSED)
    if MANIFEST not in members:
        raise VerificationError(f"{path}: holds no {MANIFEST}.", REFUSED)
    if members[MANIFEST] > MAX_BYTES:
        raise VerificationError(f"{path}: its {MANIFEST} is larger than one may be.", REFUSED)
    entries = _parse(path / MANIFEST, archive.read(MANIFEST)).files
    listed = {entry.path: entry.bytes for entry in entries} | {MANIFEST: members[MANIFEST]}
    if len(members) != len(archive.infolist()) or members != listed:
        odd = sorted(name for name in {*members, *listed} if members.get(name) != listed.get(name)) or ["a name twice"]
        raise VerificationError(f"{path}: its members are not those of its manifest ({odd[0]}).", REFUSED)
    return entries
