"""``pocketvit publish``: sign an artifact and put it into a channel, from where servers and phones take it.

Order matters: the pack first, then the description under the name of its counter, which is kept, and last
``channel.json``, which receivers read. Whoever is killed in between has published nothing, and left nothing half.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.files import make_folder, scratch
from pocketvit.serve.channels.golden import check_golden
from pocketvit.serve.channels.signing import (
    DESCRIPTION,
    MAX_COUNTER,
    MAX_DESCRIPTION_BYTES,
    Description,
    Pack,
    PrivateKey,
    PublicKey,
    opened,
    public_path_of,
    read_private,
    sign,
)
from pocketvit.serve.channels.signing import new_key as make_pair
from pocketvit.serve.channels.store import hold
from pocketvit.serve.channels.transport import Place, place_of
from pocketvit.serve.tokens import read_token
from pocketvit.spec.artifact import MANIFEST, Artifact, pack, read_artifact, sha256
from pocketvit.verify.pack import check_complete

_MOST_KEPT = 10_000


@dataclass(frozen=True)
class KeyReport:
    """A new key pair."""

    private: Path
    public: Path
    key_id: str
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "private": str(self.private), "public": str(self.public)}

    def render(self) -> str:
        """Three lines for people."""
        lines = [f"{self.private}: signs; keep it to yourself, and a copy of it where nothing gets lost."]
        lines += [f"{self.public}: for servers and phones, which trust what it proves.", f"key {self.key_id}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class PublishReport:
    """What was published."""

    to: str
    description: Description
    key_ids: tuple[str, ...]
    exit_code: int = 0
    published: bool = True
    """False where the channel's newest version is this very artifact: nothing was written."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        described = self.description.model_dump(mode="json")
        more = {"key_ids": list(self.key_ids), "published": self.published, "exit_code": self.exit_code}
        return {"to": self.to, **described, **more}

    def render(self) -> str:
        """Three lines for people; two where nothing was published."""
        new, pack = self.description, self.description.pack
        if not self.published:
            there = f"{new.name} {new.version} with this very content is the newest there, as counter {new.counter}"
            return f"{self.to}: {there}.\nNothing was published; --again publishes it under a new counter."
        lines = [f"{self.to}: {new.name} {new.version}, counter {new.counter}, signed by {', '.join(self.key_ids)}"]
        return "\n".join([*lines, f"{pack.file}: {pack.bytes / 1e6:.2f} MB", f"sha256 {pack.sha256}"])


def publish(
    artifact: str | None = None,
    *,
    to: str | None = None,
    key: Sequence[str] = (),
    new_key: str | None = None,
    counter: int | None = None,
    again: bool = False,
    token_file: str | None = None,
    check: bool = True,
    trust: bool = False,
) -> PublishReport | KeyReport:
    """Sign an artifact and put it into a channel, from where servers and phones update themselves; or make a key pair.

    Older versions stay there. Where the newest one is this very artifact, signed by just these keys, nothing is done.
    What receivers check is in docs/updates.md.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        to: the channel: a folder, or an https address below which files can be PUT. A channel holds one artifact.
        key: the file with the private key; several, old and new, while receivers are brought from one to the other.
        new_key: make a key pair instead: this file, and FILE.pub for the receivers.
        counter: the number of this publication, where it cannot be found out; it must be higher than any before.
        again: publish it under a new counter also where it is the newest there.
        token_file: file with a bearer token for the address.
        check: run the golden check first, as receivers do; it needs an engine that runs the artifact here.
        trust: let that check run files that are programs (TorchScript).

    Raises:
        UsageError: there is no such artifact, key or channel; the channel is another artifact's or signed by others.
        VerificationError: the artifact is damaged or fails its goldens; nothing was published.
        DataError: the channel cannot be written or reached.
        MissingDependencyError: the extra "serve" is not installed.
    """
    if new_key is not None:
        if artifact is not None or to is not None or key:
            raise UsageError("--new-key makes a key and publishes nothing.", "Publish with a second command.")
        private = Path(new_key)
        return KeyReport(private, public_path_of(private), make_pair(private).id)
    if artifact is None or to is None or not key:
        missing = next(w for w, x in (("ARTIFACT", artifact), ("--to", to), ("--key", key)) if not x)
        todo = "Write: pocketvit publish ARTIFACT --to FOLDER_OR_URL --key FILE"
        raise UsageError(f"{missing} is missing.", todo)
    if counter is not None and counter < 1:
        raise UsageError(f"counter is {counter}.", "Counters begin with 1.")
    keys = _read_keys(key)
    place = place_of(to, read_token(token_file))
    found = read_artifact(artifact)
    check_complete(found)
    if not again and counter is None and (same := _same_there(place, found, [k.public for k in keys])):
        return PublishReport(to, same, tuple(k.public.id for k in keys), published=False)
    if check:
        _check(found.path, trust)
    with _alone(to):
        number = _next_counter(place, to, found.manifest.name, [k.public for k in keys], counter)
        return _publish(found, place, to, keys, number)


def _read_keys(names: Sequence[str]) -> list[PrivateKey]:
    keys = [read_private(Path(name)) for name in names]
    if len({key.public.id for key in keys}) != len(keys):
        raise UsageError("one key is given twice.", "Name each key once.")
    return keys


def _same_there(place: Place, found: Artifact, keys: Sequence[PublicKey]) -> Description | None:
    """The newest description of the channel where it is of this very artifact and signed by just these keys."""
    try:
        content = place.read(DESCRIPTION, MAX_DESCRIPTION_BYTES)
        if content is None:
            return None
        new, *_ = [opened(content, [key]).description for key in keys]
    except (DataError, VerificationError):  # what is wrong there is told when it is written
        return None
    signers = {signature["key_id"] for signature in json.loads(content)["signatures"]}
    mine = (found.manifest.name, found.manifest.version, sha256(found.path / MANIFEST))
    same = (new.name, new.version, new.manifest_sha256) == mine and signers == {key.id for key in keys}
    return new if same else None


def _check(folder: Path, trust: bool) -> None:
    """The golden check, as receivers do it. Raises ``VerificationError``, ``DataError``."""
    try:
        check_golden(folder, trust=trust)
    except VerificationError as error:
        todo = "Nothing was published. `pocketvit verify` says more; --no_check leaves the check to receivers."
        raise VerificationError(error.what, todo) from error


def _publish(found: Artifact, place: Place, to: str, keys: Sequence[PrivateKey], number: int) -> PublishReport:
    """Pack, sign and upload, so that receivers see all of it or nothing."""
    manifest = found.manifest
    with scratch() as temporary:
        packed = pack(found, temporary / "pack.pvit")
        digest, size = sha256(packed), packed.stat().st_size
        file = f"{manifest.name}-{manifest.version}-{digest[:16]}.pvit"
        description = Description(
            name=manifest.name,
            version=manifest.version,
            counter=number,
            pack=Pack(file=file, bytes=size, sha256=digest),
            manifest_sha256=sha256(found.path / MANIFEST),
            time=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        content = sign(description, keys)
        place.upload(file, packed)
        place.upload(f"channel-{number}.json", content, replace=False)
        place.upload(DESCRIPTION, content)
    return PublishReport(to, description, tuple(key.public.id for key in keys))


@contextmanager
def _alone(to: str) -> Iterator[None]:
    """One publication at a time into a folder; an address has no locks."""
    if "://" in to:
        yield
        return
    make_folder(Path(to))
    busy = UsageError(f"{to}: somebody else is publishing there.", "Wait until that has ended.")
    file = hold(Path(to) / ".lock", busy)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _next_counter(place: Place, to: str, name: str, keys: Sequence[PublicKey], counter: int | None) -> int:
    """The counter of this publication: one more than that of any that is there.

    Raises:
        UsageError: the channel is another artifact's, or was signed by others and no counter is given.
    """
    highest = 0
    content = place.read(DESCRIPTION, MAX_DESCRIPTION_BYTES)
    if content is not None:
        try:
            there = opened(content, keys, f"{to}/{DESCRIPTION}").description
        except VerificationError as error:
            if counter is None:
                todo = "Sign with the key before too (--key OLD NEW), or state the next number: --counter N."
                raise UsageError(error.what, todo) from error
        else:
            if there.name != name:
                todo = "Name another folder: a channel holds one artifact."
                raise UsageError(f"{to}: is the channel of {there.name}, not of {name}.", todo)
            highest = there.counter
    number = highest + 1 if counter is None else counter
    taken = (place.read(f"channel-{n}.json", MAX_DESCRIPTION_BYTES) is not None for n in itertools.count(number))
    # What was killed before it was done has a number too.
    free = number + sum(1 for _ in itertools.islice(itertools.takewhile(bool, taken), _MOST_KEPT))
    if counter is None:
        number = free
    elif free != number:
        raise UsageError(f"counter {number} was published before.", "State a higher number.")
    if number <= highest or number > MAX_COUNTER:
        todo = f"State a number from {highest + 1} on, or none."
        raise UsageError(f"counter {number} is not above {highest}, which was published before.", todo)
    return number
