"""What the receiver of a channel keeps on disk: versions as folders, and one small file that says which of them runs.

    state.json                  which versions are active, before it, and refused; replaced in one step
    versions/NAME/              an artifact that was proven: signature, checksums and goldens
    versions/NAME.json          the signed description that it came with
    incoming.pvit               a download that is going on

``state.json`` alone decides. A process that is killed leaves the old one or the new one, and beside it at most folders
that nothing names, which are deleted when the store is opened the next time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.files import make_folder, names_in, read_text, replacing, sweep, writing
from pocketvit.serve.channels.signing import MAX_DESCRIPTION_BYTES, Description, PublicKey, Signed, opened
from pocketvit.serve.channels.transport import flush
from pocketvit.spec.artifact import MANIFEST, Artifact, file_fault, read_artifact
from pocketvit.spec.parsing import plain_name

MAX_STATE_BYTES = 1_000_000
MAX_REFUSED = 200
"""Versions that are remembered as refused; the oldest are forgotten."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Taken(_Strict):
    """A version that has run, or runs."""

    folder: str = Field(description="Name in versions/.")
    counter: int = Field(ge=1)
    version: str
    manifest_sha256: str

    @field_validator("folder")
    @classmethod
    def _stays_in_the_store(cls, folder: str) -> str:
        if not plain_name(folder) or folder.startswith("."):
            raise ValueError("is no plain name")
        return folder


class State(_Strict):
    """``state.json``."""

    schema_version: Literal[1] = 1
    name: str = Field(description="Of the artifact; those of other names are refused.")
    highest: int = Field(default=0, ge=0, description="Counter of the newest description with a good signature.")
    highest_sha256: str = Field(default="", description="Of its payload: one counter stands for one description.")
    active: Taken | None = Field(default=None, description="None: what the server was started with.")
    previous: Taken | None = Field(default=None, description="Where a roll back leads; None: the same.")
    refused: dict[str, str] = Field(default={}, description="SHA-256 of the manifest -> why it is not taken again.")

    def refusing(self, manifest_sha256: str, reason: str) -> State:
        """A state that also remembers this one."""
        others = {key: value for key, value in self.refused.items() if key != manifest_sha256}
        kept = dict(list(others.items())[-MAX_REFUSED + 1 :])
        return self.model_copy(update={"refused": {**kept, manifest_sha256: reason[:500]}})


@dataclass(frozen=True)
class Current:
    """The artifact that is to be run."""

    path: Path
    name: str
    version: str
    counter: int
    """0: the artifact that the server was started with."""
    description: bytes = field(default=b"", repr=False)
    """The signed ``channel.json`` that it came with, to be handed on to phones; empty for counter 0."""


class Store:
    """The folder of one channel's receiver, held by this process alone."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open or make it.

        Raises:
            UsageError: another process has it open, or it belongs to an artifact of another name.
            VerificationError: its state cannot be read. DataError: it cannot be written.
        """
        self.folder, self.versions, self.incoming = folder, folder / "versions", folder / "incoming.pvit"
        make_folder(self.versions)
        todo = "Wait until it has ended, or give this one a folder of its own."
        self._lock = hold(folder / "lock", UsageError(f"{folder} is in use by another process.", todo))
        self._closed = False
        try:
            self.state = self._read(name)
            self._tidy()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes have it."""
        self._closed = True
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save(self, state: State, *, anyway: bool = False) -> None:
        """Make ``state`` the one that counts, in one step.

        Raises:
            DataError: it cannot be written; the one before still counts, or ``anyway`` this one until the process ends.
        """
        if self._closed:
            raise DataError(f"{self.folder}: is closed.", "Open the channel again.")
        try:
            self._write(self.folder / "state.json", state.model_dump_json(indent=1).encode())
        except DataError:
            self.state = state if anyway else self.state
            raise
        self.state = state

    def path(self, taken: Taken) -> Path:
        """The artifact's folder."""
        return self.versions / taken.folder

    def write_description(self, folder: str, content: bytes) -> None:
        """Keep the signed description of a version beside it. Raises ``DataError``."""
        self._write(self.versions / f"{folder}.json", content)

    def description(self, taken: Taken) -> bytes:
        """The signed description that a version came with; empty where it cannot be read."""
        try:
            return read_text(self.versions / f"{taken.folder}.json", MAX_DESCRIPTION_BYTES).encode()
        except (OSError, UnicodeDecodeError):
            return b""

    def proven(self, taken: Taken, keys: Sequence[PublicKey]) -> Current:
        """A version of the store, after its description and every file were held against the signature once more.

        Raises:
            VerificationError: a file was changed or is missing, or no pinned key has signed the version (any more).
        """
        signed = opened(self.description(taken), keys, self.versions / f"{taken.folder}.json")
        hold_artifact(self.path(taken), signed)
        if signed.description.name != self.state.name:
            raise VerificationError(f"{self.path(taken)}: is a version of another artifact.", "It is not used.")
        return Current(self.path(taken), self.state.name, taken.version, taken.counter, signed.content)

    def discard(self, folder: str) -> None:
        """Delete a version."""
        shutil.rmtree(self.versions / folder, ignore_errors=True)
        with suppress(OSError):
            (self.versions / f"{folder}.json").unlink(missing_ok=True)

    def prune(self) -> None:
        """Delete every version but the active one and the one before."""
        kept = {taken.folder for taken in (self.state.active, self.state.previous) if taken is not None}
        for name in names_in(self.versions):
            folder = name.removesuffix(".json")
            if folder not in kept and not name.startswith("."):
                self.discard(folder)

    def _tidy(self) -> None:
        """Delete what a killed process has left; the lock says that nobody is at work here."""
        with writing(self.incoming):
            self.incoming.unlink(missing_ok=True)
        sweep(self.folder)
        self.prune()

    def _read(self, name: str) -> State:
        path, todo = self.folder / "state.json", f"Delete {self.folder} to begin anew with the newest version."
        try:
            state = State.model_validate_json(read_text(path, MAX_STATE_BYTES))
        except FileNotFoundError:
            return State(name=name)
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            why = error.strerror or error if isinstance(error, OSError) else "it is damaged"
            raise VerificationError(f"{path}: cannot be read ({why}).", todo) from error
        if state.name != name:
            what = f"{self.folder}: holds versions of {state.name}, not of {name}."
            raise UsageError(what, "Give each artifact a folder of its own.")
        return state

    def _write(self, path: Path, content: bytes) -> None:
        with replacing(path) as partial:
            partial.write_bytes(content)
            flush(partial)


def hold_artifact(folder: Path, signed: Signed) -> Artifact:
    """The artifact in ``folder``, after every byte of it was held against a signed description.

    Raises:
        VerificationError: it is not the one that was signed.
    """
    try:
        return _held(folder, signed.description)
    except OSError as error:
        what = f"{folder}: cannot be read ({error.strerror or error})."
        raise VerificationError(what, "It is not used.") from error


def _held(folder: Path, wanted: Description) -> Artifact:
    todo = "It is not used."
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    if digest != wanted.manifest_sha256:
        raise VerificationError(f"{folder}: its manifest is not the one that was signed.", todo)
    artifact = read_artifact(folder)
    stated = artifact.manifest.name, artifact.manifest.version
    if stated != (wanted.name, wanted.version):
        raise VerificationError(f"{folder}: is {' '.join(stated)}, signed as {wanted.name} {wanted.version}.", todo)
    if fault := next(filter(None, (file_fault(folder, entry) for entry in artifact.manifest.files)), ""):
        raise VerificationError(f"{folder}: {fault}.", todo)
    return artifact


def hold(path: Path, busy: UsageError) -> BinaryIO | None:
    """Lock a file for this process; closing it, or the end of the process, lets go.

    ``None`` where the system or the file system has no locks.

    Raises:
        UsageError: ``busy``, where another process holds it. DataError: it cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        return None
    with writing(path):
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise busy from None
    except OSError:
        file.close()
        return None
    return file
