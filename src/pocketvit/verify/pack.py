"""``pocketvit pack``: an artifact as one file, held against its manifest before and after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.errors import UsageError, VerificationError
from pocketvit.spec import artifact as archives
from pocketvit.spec.artifact import Artifact, file_fault, read_artifact, sha256

SUFFIX = ".pvit"


@dataclass(frozen=True)
class PackReport:
    """The file that was written."""

    path: Path
    name: str
    version: str
    files: int
    """Members, the manifest among them."""
    bytes: int
    sha256: str
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "path": str(self.path)}

    def render(self) -> str:
        """Two lines for people."""
        what = f"{self.name} {self.version}, {self.files} files, {self.bytes / 1e6:.2f} MB, read back"
        return f"{self.path}: {what}\nsha256 {self.sha256}"


def pack(artifact: str, *, out: str | None = None, overwrite: bool = False) -> PackReport:
    """Write an artifact as one .pvit file, which every command takes like the folder; the same artifact gives the same
    bytes.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        out: the file to write; by default NAME-VERSION.pvit in the current folder. A folder gets that file.
        overwrite: replace a .pvit file that is there already.

    Raises:
        UsageError: there is no such artifact, or the file exists or does not end in .pvit.
        VerificationError: the artifact is damaged, or what was written does not read back.
        DataError: the file cannot be written.
    """
    found = read_artifact(artifact)
    check_complete(found)
    path = _destination(found, out)
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        raise UsageError(f"{path} already exists.", "Name another file with --out, or pass --overwrite.")
    archives.pack(found, path)
    manifest = found.manifest
    members = 1 + len(manifest.files)
    return PackReport(path, manifest.name, manifest.version, members, path.stat().st_size, sha256(path))


def check_complete(artifact: Artifact) -> None:
    """Raise ``VerificationError`` where a listed file is missing or changed, or a needed one not listed."""
    listed = {entry.path for entry in artifact.manifest.files}
    needed = {name for v in artifact.manifest.variants for name in (v.path, *v.companions)}
    faults = [fault for entry in artifact.manifest.files if (fault := file_fault(artifact.path, entry))]
    faults += [f"{name} is needed but not listed in the manifest" for name in sorted(needed - listed)]
    if faults:
        todo = "Do not hand it over: export it again, or copy it again from where it was verified."
        raise VerificationError(f"{artifact.manifest.name}: {faults[0]}.", todo)


def _destination(artifact: Artifact, out: str | None) -> Path:
    name = f"{artifact.manifest.name}-{artifact.manifest.version}{SUFFIX}"
    path = Path(out) if out is not None else Path(name)
    path = path / name if path.is_dir() else path
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"{path} does not end in {SUFFIX}.", f"Name the file e.g. {path.name or name}{SUFFIX}.")
    return path
