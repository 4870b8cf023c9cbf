"""Ed25519 keys, and the signed description of the newest version in a channel of model updates.

A description is a small JSON document. What is signed are its bytes as they stand, behind ``PREFIX``, so that nothing
has to be brought into a canonical form before it is checked: not in Python, and not in a browser. docs/updates.md has
the format. Keys are PEM files (PKCS 8 and SubjectPublicKeyInfo) that OpenSSL reads too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.files import read_text, replacing
from pocketvit.spec.artifact import MAX_ARCHIVE_BYTES
from pocketvit.spec.manifest import NAME_PATTERN, VERSION_PATTERN
from pocketvit.spec.parsing import plain_name

PREFIX = b"pocketvit-channel-1\n"
"""Stands before the signed bytes, so that what the key signs elsewhere does not pass for a description."""
DESCRIPTION = "channel.json"
"""Name of the newest description in a channel."""
MAX_DESCRIPTION_BYTES = 32_768
MAX_COUNTER = 2**53 - 1
"""JavaScript counts so far without error."""
_MAX_KEY_BYTES = 10_000
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in DER."""
_Kind = TypeVar("_Kind", bound=BaseModel)
_SHA256 = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Pack(_Strict):
    """The ``.pvit`` file of a version."""

    file: str = Field(description="Its name beside the description, without folders.")
    bytes: int = Field(gt=0, le=MAX_ARCHIVE_BYTES)
    sha256: str = Field(pattern=_SHA256)

    @field_validator("file")
    @classmethod
    def _stays_in_the_folder(cls, file: str) -> str:
        if not plain_name(file) or file.startswith("."):
            raise ValueError("is no plain name of a file")
        return file


class Description(_Strict):
    """What is signed: which version is the newest, and what it must be byte for byte."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN, max_length=200, description="Of the artifact; a channel has one.")
    version: str = Field(pattern=VERSION_PATTERN, max_length=60, description="That the artifact's manifest states.")
    counter: int = Field(ge=1, le=MAX_COUNTER, description="Rises with each publication; what counts for receivers.")
    pack: Pack
    manifest_sha256: str = Field(
        pattern=_SHA256, description="Of manifest.json, which lists the checksum of every other file."
    )
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="Of the publication, in UTC.")


class Signature(_Strict):
    """One signature of the payload."""

    key_id: str = Field(pattern=r"^[0-9a-f]{16}$", description="Which key to try; not proven by itself.")
    signature: str = Field(max_length=100, description="64 bytes in base64, over PREFIX and the payload.")


class Envelope(_Strict):
    """``channel.json``: a description as text, and signatures of just that text."""

    payload: str = Field(max_length=MAX_DESCRIPTION_BYTES)
    signatures: list[Signature] = Field(min_length=1, max_length=8)


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are held against."""

    raw: bytes
    """32 bytes."""

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the raw key."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def pem(self) -> str:
        """As a PEM file has it (SubjectPublicKeyInfo, RFC 8410)."""
        text = base64.b64encode(_SPKI + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    key: Any = field(repr=False)
    public: PublicKey


@dataclass(frozen=True)
class Signed:
    """A description whose signature is that of a pinned key."""

    description: Description
    payload_sha256: str
    key_id: str
    content: bytes = field(repr=False)
    """The whole document, to be handed on to others who check it themselves."""


def new_key(path: Path) -> PublicKey:
    """Make a key pair: ``path``, for its owner alone (mode 0600), and ``path``.pub beside it.

    Raises:
        UsageError: one of the two files is there already. DataError: they cannot be written.
        MissingDependencyError: the extra "serve" is not installed.
    """
    ed25519, serialization = _library()
    public_path = public_path_of(path)
    for place in (path, public_path):
        if os.path.lexists(place):
            raise UsageError(f"{place} already exists.", "Keys are never overwritten: name another file.")
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    with replacing(path, overwrite=False) as partial:
        partial.chmod(0o600)  # while it is empty
        partial.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    with replacing(public_path, overwrite=False) as partial:
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        partial.write_bytes(key.public_key().public_bytes(pem, kind))
    return PublicKey(key.public_key().public_bytes_raw())


def public_path_of(path: Path) -> Path:
    """Where the public key of the private key at ``path`` is written."""
    return path.with_name(f"{path.name}.pub")


def read_private(path: Path) -> PrivateKey:
    """The private key of a PEM file.

    Raises:
        UsageError: it is missing, no Ed25519 private key without a password, or others may read it.
        MissingDependencyError: the extra "serve" is not installed.
    """
    ed25519, serialization = _library()
    todo = "Name the private key that `pocketvit publish --new-key FILE` made."
    content = _key_text(path, todo)
    if b"PUBLIC KEY" in content:
        raise UsageError(f"{path}: is a public key, which cannot sign.", todo)
    if os.name == "posix" and os.stat(path).st_mode & 0o077:
        raise UsageError(f"{path}: other users may read this private key.", f"Run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError as error:
        raise UsageError(f"{path}: is locked by a password.", "Write it without: openssl pkey -in FILE") from error
    except Exception as error:  # ValueError, UnsupportedAlgorithm: whatever OpenSSL has against it
        raise UsageError(f"{path}: is no private key.", todo) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path}: is not an Ed25519 key.", todo)
    return PrivateKey(key, PublicKey(key.public_key().public_bytes_raw()))


def read_public(path: Path) -> PublicKey:
    """The public key of a PEM file.

    Raises:
        UsageError: it is missing or no Ed25519 public key; a private key is refused too, it belongs on no server.
        MissingDependencyError: the extra "serve" is not installed.
    """
    ed25519, serialization = _library()
    todo = "Name the .pub file that `pocketvit publish --new-key FILE` wrote beside the private key."
    content = _key_text(path, todo)
    if b"PRIVATE KEY" in content:
        raise UsageError(f"{path}: is a private key.", "Give receivers the .pub file, and keep this one to yourself.")
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:
        raise UsageError(f"{path}: is no public key.", todo) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"{path}: is not an Ed25519 key.", todo)
    return PublicKey(key.public_bytes_raw())


def sign(description: Description, keys: Sequence[PrivateKey]) -> bytes:
    """The document ``channel.json`` with a signature of each key."""
    payload = description.model_dump_json()
    signatures = [
        Signature(key_id=key.public.id, signature=base64.b64encode(key.key.sign(_message(payload))).decode())
        for key in keys
    ]
    return Envelope(payload=payload, signatures=signatures).model_dump_json(indent=1).encode() + b"\n"


def opened(content: bytes, keys: Sequence[PublicKey], where: object = DESCRIPTION) -> Signed:
    """The description in ``content``, after one of its signatures was found to be of one of ``keys``.

    Raises:
        VerificationError: it is no such document, no key has signed it, or what is signed makes no sense.
        MissingDependencyError: the extra "serve" is not installed.
    """
    ed25519, _ = _library()
    todo = "It is not used, and what runs stays. Ask who publishes there."
    if len(content) > MAX_DESCRIPTION_BYTES:
        raise VerificationError(f"{where}: is larger than a description may be.", todo)
    envelope = _parsed(Envelope, content, where, todo)
    if not (signer := _signer(ed25519, envelope, keys)):
        theirs = ", ".join(dict.fromkeys(signature.key_id for signature in envelope.signatures))
        mine = ", ".join(key.id for key in keys)
        raise VerificationError(f"{where}: no pinned key ({mine}) has signed it; it names {theirs}.", todo)
    description = _parsed(Description, envelope.payload, where, todo)
    return Signed(description, hashlib.sha256(envelope.payload.encode()).hexdigest(), signer, content)


def _signer(ed25519: ModuleType, envelope: Envelope, keys: Sequence[PublicKey]) -> str:
    """The id of the first of ``keys`` that has signed; empty where none has."""
    from cryptography.exceptions import InvalidSignature

    if not envelope.payload.isascii():  # ours is; a lone surrogate would be other bytes elsewhere
        return ""
    known = {key.id: key for key in keys}
    for signature in envelope.signatures:
        if signature.key_id not in known:
            continue
        try:
            found = base64.b64decode(signature.signature, validate=True)
            key = ed25519.Ed25519PublicKey.from_public_bytes(known[signature.key_id].raw)
            key.verify(found, _message(envelope.payload))
            return signature.key_id
        except (binascii.Error, ValueError, InvalidSignature):
            continue
    return ""


def _message(payload: str) -> bytes:
    return PREFIX + payload.encode("ascii")


def _parsed(kind: type[_Kind], text: str | bytes, where: object, todo: str) -> _Kind:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise VerificationError(f"{where}: is no description of a version ({place}: {first['msg']}).", todo) from error


def _key_text(path: Path, todo: str) -> bytes:
    try:
        return read_text(path, _MAX_KEY_BYTES).encode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}).", todo) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no key in PEM form.", todo) from error


def _library() -> tuple[ModuleType, ModuleType]:
    """The parts of cryptography that are needed, imported when they are."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependencyError.of("cryptography", "serve") from error
    return ed25519, serialization
