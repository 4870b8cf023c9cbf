"""The command ``pocketvit data``: fetch public data sets, prove them, unpack them and say how a recipe names them.

In the folder that ``--to`` names, ``<name>/`` is the data set; it is there whole or not at all, and is not fetched
again. ``<archive>.part`` is a download that goes on, ``<archive>.sha256`` what was fetched, which a later download is
held against where nothing is published.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pocketvit.data.archives import digests, unpacked
from pocketvit.data.fetch import Download, Manners, fetch_all
from pocketvit.data.layouts import READERS
from pocketvit.data.sources import SOURCES, Source, SourceFile
from pocketvit.errors import DataError, UsageError, did_you_mean
from pocketvit.files import make_folder, need_space, write_json, write_text, writing
from pocketvit.interrupts import Interrupted
from pocketvit.progress import track
from pocketvit.spec.tasks import TASKS
from pocketvit.terminal import rendered, shown, table

RECORD = ".pocketvit-source.json"
"""In a data set that this command made: where it came from."""
MOST_CONNECTIONS = 4


@dataclass(frozen=True)
class SourceList:
    """The data sets that can be fetched."""

    sources: dict[str, Source]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {name: asdict(source) for name, source in self.sources.items()}

    def render(self) -> str:
        """One row for each, then their pages and addresses."""
        rows = [
            (name, f"{source.gigabytes:g} GB", source.licence, _checks(source.files), source.summary)
            for name, source in self.sources.items()
        ]
        overview = rendered(table(("name", "size", "licence", "published checksum", "what it is"), rows))
        places = [f"{name}: {file.url} ({each.home})" for name, each in self.sources.items() for file in each.files]
        return "\n".join([overview, "", *places])


@dataclass(frozen=True)
class Acquired:
    """A data set that is on this disk."""

    name: str
    folder: str
    pairs: dict[str, int]
    """Pairs that the layout's reader found, by split."""
    fetched: bool
    """Whether it was fetched now; else it was there."""
    licence: str
    home: str
    archives: dict[str, dict[str, Any]]
    """By name: address or path, bytes, sha256, and what it was ``checked`` against."""
    notes: tuple[str, ...]
    recipe: str
    """Lines for a recipe."""

    def lines(self) -> list[str]:
        """Lines for people."""
        count = ", ".join(f"{number} {split} pairs" for split, number in self.pairs.items())
        first = f"{self.name}: {count} in {self.folder}{'' if self.fetched else ' (was there already)'}"
        checks = [f"{name}: {archive['checked']}" for name, archive in self.archives.items()]
        terms = f"licence {self.licence}, see {self.home}"
        return [shown(line) for line in (first, *checks, terms, *self.notes)] + ["in a recipe:", self.recipe]


@dataclass(frozen=True)
class AcquireReport:
    """What ``pocketvit data get`` did."""

    sets: tuple[Acquired, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {each.name: {**asdict(each), "recipe": yaml.safe_load(each.recipe)} for each in self.sets}

    def render(self) -> str:
        """Lines for people, one block for each set."""
        return "\n\n".join("\n".join(each.lines()).rstrip() for each in self.sets)


def data(
    verb: str,
    names: Sequence[str] = (),
    *,
    to: str = "",
    from_: str = "",
    connections: int = 2,
    retries: int = 5,
    timeout_s: float = 30.0,
    checksum: bool = True,
    keep_archive: bool = False,
) -> AcquireReport | SourceList:
    """Fetch public data sets, or list them: ``data list``, ``data get sidd-small gopro --to FOLDER``.

    What was fetched is held against the published checksum, looked through before it is unpacked, and unpacked whole
    or not at all. The same command goes on where an interrupted one ended, and fetches nothing twice.

    Args:
        verb: ``get``, or ``list``, which shows size, licence, address, and which checksums are published.
        names: data sets of the list.
        to: folder that each data set becomes a folder of.
        from_: a mirror (address of the folder or of the archive), or a folder with archives fetched by hand.
        connections: connections to one host at a time, 1 to 4; there is one for each archive.
        retries: attempts after a failure without progress, 0 to 100.
        timeout_s: seconds without data after which a connection has stalled.
        checksum: hold archives against what is published; ``--no_checksum`` takes a mirror's own packing or part.
        keep_archive: do not delete the archive after unpacking; one that was there before is never deleted.

    Raises:
        UsageError: no such verb or data set, or something else is where the data set would be.
        DataError: it cannot be fetched, is not what was published, or the disk is full.
    """
    if verb not in ("get", "list"):
        raise UsageError(f"data {verb[:40]} is unknown.", did_you_mean(verb, ("get", "list"), "Take get or list."))
    if unknown := [name for name in names if name not in SOURCES]:
        todo = did_you_mean(unknown[0], SOURCES, f"There are: {', '.join(SOURCES)}.")
        raise UsageError(f"there is no data set {unknown[0][:60]!r} to fetch.", todo)
    wanted = {name: SOURCES[name] for name in names or (SOURCES if verb == "list" else ())}
    if verb == "list":
        return SourceList(wanted)
    if not wanted or not to.strip():
        missing = "--to" if wanted else "a data set"
        raise UsageError(
            f"data get needs {missing}.", f"For example: pocketvit data get {next(iter(SOURCES))} --to data"
        )
    if not 1 <= connections <= MOST_CONNECTIONS:
        raise UsageError(f"--connections must be 1 to {MOST_CONNECTIONS}, not {connections}.", "Two are polite.")
    if not 0 <= retries <= 100 or not 0 < timeout_s <= 3600:
        raise UsageError("--retries must be 0 to 100, --timeout_s above 0 and up to 3600.", "Leave them as they are.")
    folder, manners = Path(to), Manners(connections, retries, timeout_s)
    with _interruptible(folder, wanted):
        make_folder(folder)
        return _get(wanted, folder, from_, manners, checksum, keep_archive)


@contextmanager
def _interruptible(folder: Path, wanted: dict[str, Source]) -> Iterator[None]:
    """Say at an interruption what is there, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        asked = error if isinstance(error, Interrupted) else Interrupted()
        parts = [folder / f"{file.name}.part" for source in wanted.values() for file in source.files]
        there = ", ".join(f"{part} has {part.stat().st_size / 1e6:.1f} MB" for part in parts if part.is_file())
        what = f"{asked.what.rstrip('.')}; {there}." if there else asked.what
        todo = "The same command goes on from there; nothing is half unpacked."
        raise Interrupted(asked.number, what, todo) from None


def _get(
    wanted: dict[str, Source], folder: Path, origin: str, manners: Manners, checksum: bool, keep: bool
) -> AcquireReport:
    done = {name: _there(name, source, folder) for name, source in wanted.items()}
    missing = {name: source for name, source in wanted.items() if done[name] is None}
    places = {file.name: _place(file, folder, origin, missing) for source in missing.values() for file in source.files}
    jobs = {
        file.name: Download(_address(file, origin), places[file.name], file.bytes if checksum else None)
        for source in missing.values()
        for file in source.files
        if not places[file.name].exists()
    }
    _download(jobs, manners, round(1000 * sum(source.gigabytes for source in missing.values())) if checksum else None)
    errors: list[BaseException] = [job.error for job in jobs.values() if job.error]
    for name, source in missing.items():
        if any(file.name in jobs and jobs[file.name].error for file in source.files):
            continue
        try:
            archives = {file.name: _proven(file, places[file.name], folder, checksum) for file in source.files}
            for file in source.files:
                archives[file.name]["from"] = jobs[file.name].url if file.name in jobs else str(places[file.name])
            notes = [note for file in source.files if file.name in jobs for note in jobs[file.name].notes]
            notes += [f"{places[file.name]} was there and stays." for file in source.files if file.name not in jobs]
            done[name] = _unpack(name, source, folder, [places[file.name] for file in source.files], archives, notes)
        except (DataError, UsageError) as error:
            errors.append(error)
            continue
        for file in source.files:
            if file.name in jobs and not keep:  # what was there before may be somebody's own
                places[file.name].unlink(missing_ok=True)
    for other in errors[1:]:
        print(shown(getattr(other, "what", other)), file=sys.stderr)
    if errors:
        raise errors[0]
    return AcquireReport(tuple(each for each in done.values() if each))


def _address(file: SourceFile, origin: str) -> str:
    """Where a file is fetched from: its own address, or the same name at a mirror."""
    if not origin:
        return file.url
    named = urlsplit(origin).path.rpartition("/")[2] == file.name
    return origin if named else f"{origin.rstrip('/')}/{file.name}"


def _place(file: SourceFile, folder: Path, origin: str, wanted: dict[str, Source]) -> Path:
    """Where the archive is or will be: below ``folder``, or where it was put by hand.

    Raises:
        UsageError: ``origin`` is neither an address nor a folder. DataError: the folder does not hold the archive.
    """
    if not origin or urlsplit(origin).scheme in ("http", "https"):
        return folder / file.name
    if os.path.isfile(origin) and sum(len(source.files) for source in wanted.values()) == 1:
        return Path(origin)
    if not os.path.isdir(origin):
        todo = "Give http://..., https://..., or the folder with the archives."
        raise UsageError(f"--from {origin[:200]}: is no address and no folder.", todo)
    if not (path := Path(origin) / file.name).is_file():
        raise DataError(f"{origin}: holds no {file.name}.", "Put the archive there under that name.")
    return path


def _download(jobs: dict[str, Download], manners: Manners, total: int | None) -> None:
    """Fetch what is to be fetched, with one bar for all, of about ``total`` MB; what failed has its error."""
    if not jobs:
        return
    parts = sum(job.part.stat().st_size for job in jobs.values() if job.part.is_file())
    need_space(next(iter(jobs.values())).path.parent, sum(2 * (job.bytes or 0) for job in jobs.values()) - parts)
    megabytes, said = 0, set[str]()
    with track(f"MB of {', '.join(jobs)}", total) as advance:

        def watch() -> None:
            nonlocal megabytes
            now = sum(job.done for job in jobs.values()) // 1_000_000
            advance(now - megabytes)
            megabytes = now
            for note in [note for job in jobs.values() for note in job.notes if note not in said]:
                said.add(note)
                print(shown(note), file=sys.stderr)

        fetch_all(list(jobs.values()), manners, watch)


def _proven(file: SourceFile, path: Path, folder: Path, checksum: bool) -> dict[str, Any]:
    """Bytes, sha256 and what the archive was held against.

    Raises:
        DataError: it is not what was published or, where nothing is, not what was fetched before. It stays.
    """
    published = dict(each.split(":") for each in file.checksums) if checksum else {}
    size = path.stat().st_size
    if checksum and file.bytes not in (None, size):
        raise _other(path, f"has {size} bytes, but {file.bytes} are published")
    with track(f"MB of {file.name} read", size // 1_000_000) as advance:
        found = digests(path, ("sha256", *published), _megabytes(advance))
    for algorithm, value in published.items():
        if found[algorithm] != value:
            raise _other(path, f"its {algorithm} is {found[algorithm]}, but {value} is published")
    note = folder / f"{file.name}.sha256"
    with writing(note, "read"):
        before = note.read_text(encoding="utf-8", errors="replace").split()[:1] if note.is_file() else []
    if checksum and not published and before and before != [found["sha256"]]:
        what = f"{path}: its sha256 is {found['sha256']}, but {before[0][:64]} was fetched before ({note})."
        raise DataError(what, f"If it is right, delete {note}; else delete {path} and run the command again.")
    write_text(note, f"{found['sha256']}  {file.name}\n")
    proof = f"as published ({', '.join(published)})" if published else _unproven(checksum, bool(before))
    return {"bytes": size, "sha256": found["sha256"], "checked": proof}


def _unproven(checksum: bool, before: bool) -> str:
    if not checksum:
        return "not held against what is published (--no_checksum)"
    return f"no checksum is published; its sha256 is {'that of before' if before else 'recorded for the next time'}"


def _other(path: Path, what: str) -> DataError:
    todo = f"Delete {path} and run the command again, or take it as it is with --no_checksum."
    return DataError(f"{path}: {what}.", todo)


def _megabytes(advance: Callable[..., None]) -> Callable[[int], None]:
    """Turn bytes into the megabytes that a bar counts."""
    read = 0

    def add(count: int) -> None:
        nonlocal read
        advance((read + count) // 1_000_000 - read // 1_000_000)
        read += count

    return add


def _unpack(
    name: str, source: Source, folder: Path, paths: list[Path], archives: dict[str, dict[str, Any]], notes: list[str]
) -> Acquired:
    root = folder / name
    with (
        track(f"MB of {name} unpacked", sum(path.stat().st_size for path in paths) // 1_000_000) as advance,
        unpacked(paths, source.holds, root, _megabytes(advance)) as temporary,
    ):
        try:
            found = _found(name, source, temporary)
        except DataError as error:
            what = error.what.replace(str(temporary), f"{', '.join(map(str, paths))}")
            raise DataError(what, f"It is another archive: look at {source.home}.") from error
        write_json(temporary / RECORD, {"name": name, "home": source.home, "archives": archives})
    said = (*notes, *(note.replace(str(temporary), str(root)) for note in found.notes))
    return replace(found, folder=str(root), fetched=True, archives=archives, notes=said, recipe=_recipe(source, root))


def _there(name: str, source: Source, folder: Path) -> Acquired | None:
    """A data set that was fetched before.

    Raises:
        UsageError: something else lies where it would be. DataError: it is no longer what the reader reads.
    """
    root = folder / name
    if not os.path.lexists(root):
        return None
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
        archives = dict(record["archives"])
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{root} is there already and was not made by this command."
        raise UsageError(what, "Name another --to, or move it away.") from None
    try:
        found = _found(name, source, root)
    except DataError as error:
        raise DataError(error.what, f"Delete {root} and run the command again.") from error
    return replace(found, archives=archives)


def _found(name: str, source: Source, root: Path) -> Acquired:
    """The data set in ``root``, read as a recipe would have it read; raises ``DataError``."""
    pairs, notes = {}, list[str]()
    for split, published in source.pairs:
        rows, remarks = READERS[source.layout](root, split)
        pairs[split] = len(rows)
        notes += remarks
        if len(rows) != published:
            notes.append(f"{name}: {published} {split} pairs are published, {len(rows)} are there.")
    recipe = _recipe(source, root)
    return Acquired(name, str(root), pairs, False, source.licence, source.home, {}, tuple(notes), recipe)


def _recipe(source: Source, root: Path) -> str:
    """Lines that name the data set."""
    parts = {split: [str(root)] for split, _ in source.pairs}
    task = next(task.name for task in TASKS.values() if source.layout in task.layouts)
    document = {"data": {**parts, "layout": source.layout}, "task": {"name": task}, "licence_data": source.licence}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _checks(files: Sequence[SourceFile]) -> str:
    kinds = dict.fromkeys(check.partition(":")[0] for file in files for check in file.checksums)
    return ", ".join(kinds) or "none"
