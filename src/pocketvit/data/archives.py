"""Archives of data sets: looked through before anything is unpacked, then unpacked whole or not at all.

Nothing in them is trusted: names may not leave the folder, links, devices and encrypted members are refused, and so is
what unpacks to far more than photos do. Sizes are those of the archive's directory; more than that is never written
of a member, and its CRC is held.
"""

from __future__ import annotations

import hashlib
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from pocketvit.errors import DataError
from pocketvit.files import need_space, writing
from pocketvit.spec.artifact import BROKEN_ZIP, FREE_BYTES, new_folder
from pocketvit.spec.parsing import plain_name

MAX_MEMBERS, MAX_DEPTH = 200_000, 16
MAX_RATIO = 20
"""An archive may unpack to so many times its size (and ``FREE_BYTES``): photos hardly pack."""
_CHUNK = 1 << 20
_REFUSED = "Do not unpack it; fetch it again from the publisher."


def digests(path: Path, algorithms: Sequence[str], advance: Callable[[int], None]) -> dict[str, str]:
    """Hex digests of a file, read once; ``advance`` is told the bytes.

    Raises:
        DataError: it cannot be read.
    """
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with writing(path, "read"), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for each in hashes.values():
                each.update(chunk)
            advance(len(chunk))
    return {name: each.hexdigest() for name, each in hashes.items()}


@contextmanager
def unpacked(
    paths: Sequence[Path], holds: Sequence[str], destination: Path, advance: Callable[[int], None]
) -> Iterator[Path]:
    """Yield a temporary folder with what the archives hold below their root, which becomes ``destination`` at the end.

    The root of an archive is where it has the folders ``holds``. ``advance`` is told the bytes that were written.

    Raises:
        DataError: an archive is damaged, holds something else or what none may hold, or the disk is full; there is no
            ``destination`` then. UsageError: ``destination`` is there already.
    """
    with ExitStack() as stack:
        plans = [_plan(path, stack, holds) for path in paths]
        need_space(destination.parent, sum(member.file_size for _, _, plan in plans for member, _ in plan))
        with new_folder(destination) as folder:
            for path, archive, plan in plans:
                with _readable(path):
                    for member, target in plan:
                        _extract(archive, member, folder / target, advance)
            yield folder


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What zipfile says of a damaged archive, as a ``DataError``; what the disk says stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # zipfile's own have none
            raise
        raise _damaged(path, error) from error
    except (*BROKEN_ZIP, NotImplementedError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged or no zip archive ({error}).", "Delete it and run the command again.")


Plan = list[tuple[zipfile.ZipInfo, str]]


def _plan(path: Path, stack: ExitStack, holds: Sequence[str]) -> tuple[Path, zipfile.ZipFile, Plan]:
    """The open archive, and which of its files go where; nothing is unpacked yet."""
    with writing(path, "read"), _readable(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        size = path.stat().st_size
    members = archive.infolist()
    if fault := next(faults(members, size), ""):
        raise DataError(f"{path}: {fault}.", _REFUSED)
    files = {member.filename: member for member in members if not member.is_dir()}
    root = root_of(files, holds)
    if root is None:
        wanted = " and ".join(f"{name}/" for name in holds)
        raise DataError(
            f"{path}: holds no folder with {wanted}.", "It is another archive: look at the publisher's page."
        )
    plan = [(member, name.removeprefix(root)) for name, member in files.items() if name.startswith(root)]
    return path, archive, plan


def faults(members: Sequence[zipfile.ZipInfo], size: int) -> Iterator[str]:
    """What an archive of ``size`` bytes may not hold, one phrase each."""
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS:
        yield f"has {len(members)} members, more than any data set"
    if total > FREE_BYTES + MAX_RATIO * size:
        yield f"would unpack to {total / 1e6:.0f} MB, {total / max(size, 1):.0f} times its size"
    places: dict[str, bool] = {}
    for member in members:
        name = member.filename
        parts = name.removesuffix("/").split("/")
        if len(parts) > MAX_DEPTH or not all(plain_name(part) and part != "." for part in parts):
            yield f"member {name[:100]!r} would leave the folder, or is no plain name"
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > member.is_dir():
            yield f"member {name[:100]!r} is a link or a device, not a file"
        if member.flag_bits & 1:
            yield f"member {name[:100]!r} is encrypted"
        # Names that some file systems do not tell apart are one; a file is no folder of others.
        *above, own = (unicodedata.normalize("NFC", "/".join(parts[: i + 1])).casefold() for i in range(len(parts)))
        below_file = any(not places.setdefault(key, True) for key in above)
        if below_file or (own in places and not (places[own] and member.is_dir())):
            yield f"member {name[:100]!r} is there twice"
        places[own] = member.is_dir()


def root_of(names: Sequence[str] | dict[str, zipfile.ZipInfo], holds: Sequence[str]) -> str | None:
    """Where files lie below all the folders ``holds``: "" or a path that ends in a slash, the shortest there is."""
    above: dict[str, set[str]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        for depth, part in enumerate(parts[:-1]):
            if part in holds:
                above.setdefault("".join(f"{each}/" for each in parts[:depth]), set()).add(part)
    return min(
        (root for root, found in above.items() if found == set(holds)),
        key=lambda root: (root.count("/"), root),
        default=None,
    )


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, advance: Callable[[int], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            advance(len(chunk))
    if target.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is cut short")
