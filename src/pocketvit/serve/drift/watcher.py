"""Takes in each answered request of a server, beside its work: one thread measures, compares, stores and tells.

What is handed over waits in a short queue; where it is full, a request is not watched, and counted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, PocketvitError
from pocketvit.serve.drift.monitor import LEAST_REFERENCE, WINDOW, Change, Watch
from pocketvit.serve.drift.statistics import (
    DISTANCE,
    Cloud,
    Statistic,
    distances_apart,
    photo_statistics,
    scaled,
    statistics_of,
)
from pocketvit.serve.drift.store import Reader, Reference, Store
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Ran
from pocketvit.spec.images import list_images, read_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Result

log = logging.getLogger("pocketvit.serve")
LEARN = 200
"""First requests that are the reference where there is none."""
MOST_PHOTOS = 500
"""Of a reference folder, evenly chosen."""
QUEUE, MOST_HELD = 16, 64_000_000
"""Requests that may wait, and bytes of their photos."""
MOST_OLD = 3
"""Versions of a model that are still told of after others have taken their place."""
PHOTOS, REQUESTS = "photos", "first requests"


@dataclass(frozen=True)
class _Answered:
    served: Served
    time: float
    seconds: float
    photo: Pixels
    result: Result


@dataclass(frozen=True)
class Who:
    """Which model it is, without the model: what has been watched outlives what is loaded."""

    name: str
    version: str
    digest: str
    task: str

    @classmethod
    def of(cls, served: Served) -> Who:
        """A model that is served."""
        return cls(served.name, served.version, served.digest, served.task)

    @property
    def key(self) -> str:
        """Name, version and digest: another build of a version is another model."""
        return f"{self.name} {self.version} {self.digest}".strip()


@dataclass
class Watched:
    """One version of a model."""

    who: Who
    statistics: tuple[Statistic, ...]
    reference: Reference
    watches: dict[str, Watch] = field(default_factory=dict)
    learnt: dict[str, list[float]] = field(default_factory=dict)
    embeddings: list[NDArray[np.float64]] = field(default_factory=list)

    @classmethod
    def of(cls, who: Who, reference: Reference) -> Watched:
        """Watched against a reference, so far as there is one."""
        found = cls(who, statistics_of(who.task), reference)
        found.refer(reference)
        return found

    @property
    def key(self) -> str:
        """The model's in the file."""
        return self.who.key

    def refer(self, reference: Reference) -> None:
        """Watch the statistics that a reference has and that were not watched."""
        self.reference = reference
        for name, values in reference.values.items():
            if name not in self.watches and len(values) >= LEAST_REFERENCE:
                self.watches[name] = Watch(name, values)

    def measure(self, photo: Pixels, result: Result, seconds: float | None) -> dict[str, float]:
        """Statistics of a request as they are compared; its embedding is kept where the reference is being learnt."""
        values, signs = photo_statistics(photo), TASKS[self.who.task].signs
        if seconds is not None:
            values["latency"] = 1e3 * seconds
        if signs is not None:
            found, embedding = signs.read(result, photo)
            values |= found
            if self.reference.cloud is not None:
                values[DISTANCE] = self.reference.cloud.distance(embedding)
            else:
                self.embeddings.append(embedding)
        return scaled(self.statistics, values)

    def take(self, values: Mapping[str, float]) -> list[Change]:
        """Compare the statistics of a request; what has changed."""
        changes = [self.watches[name].update(value) for name, value in values.items() if name in self.watches]
        for name, value in values.items():
            if name not in self.watches:
                self.learnt.setdefault(name, []).append(value)
        return [change for change in changes if change is not None]

    def learn(self, source: str, least: int) -> bool:
        """Make a reference of what was learnt, where ``least`` requests were; whether it was done."""
        ready = {name: np.array(values) for name, values in self.learnt.items() if len(values) >= least}
        if not ready:
            return False
        cloud = None
        if len(self.embeddings) >= max(least, LEAST_REFERENCE):
            embeddings = np.array(self.embeddings)
            cloud = Cloud.of(embeddings)
            distance = next(each for each in self.statistics if each.name == DISTANCE)
            ready[DISTANCE] = np.array([distance.scaled(each) for each in distances_apart(embeddings)])
            self.embeddings = []
        for name in ready:
            self.learnt.pop(name, None)
        self.refer(self.reference.joined(source, ready, cloud))
        return True


class Watcher:
    """Give it to ``Services.watchers``; :meth:`close` it at the end."""

    def __init__(
        self, path: Path, reference: Path | None = None, tell: Callable[[dict[str, Any]], None] = lambda event: None
    ) -> None:
        """``tell`` is called with each change, in the thread that watches.

        Raises:
            DataError: the file at ``path`` cannot be written or is something else, or the reference holds no photos.
        """
        self.path, self._tell = path, tell
        self._photos = list_images(reference) if reference is not None else []
        if reference is not None and len(self._photos) < LEAST_REFERENCE:
            what = f"{reference}: {len(self._photos)} photos are too few to compare with."
            raise DataError(what, f"Name a folder of at least {LEAST_REFERENCE}; 200 and more are better.")
        self._key = _digest(self._photos)
        self._store = Store(path)
        self.watched: dict[str, Watched] = {}
        self.dropped = self.failed = 0
        self.lock = threading.Lock()
        """Held while what is watched changes."""
        self._waiting: deque[_Answered] = deque()
        self._held, self._busy, self._stop = 0, False, False
        self._changed = threading.Condition()
        self._new: deque[Served] = deque()
        self._models: Models | None = None
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
        self._thread.start()

    def begin(self, models: Models) -> None:
        """Have references of photos made for what is served, before the first request comes."""
        with self._changed:
            self._models = models
            self._new.extend(models.all())
            self._changed.notify_all()

    def __call__(self, ran: Ran) -> None:
        """See ``Services.watchers``: hand a request over, which takes microseconds."""
        outcome = ran.outcome
        if outcome is None or outcome.pixels is None or outcome.result is None:
            return
        answered = _Answered(ran.served, time.time(), ran.seconds, outcome.pixels, outcome.result)
        with self._changed:
            full = len(self._waiting) >= QUEUE or self._held + outcome.pixels.nbytes > MOST_HELD
            if self._stop or (self._waiting and full):
                self.dropped += 1
                return
            self._held += outcome.pixels.nbytes
            self._waiting.append(answered)
            self._changed.notify_all()

    def settle(self, seconds: float = 120.0) -> bool:
        """Wait until all that was handed over is stored; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._new or self._busy), seconds)

    def close(self) -> None:
        """End; what waits is still stored, for at most five seconds."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join(5)

    def _run(self) -> None:
        with suppress(AttributeError, OSError):  # requests that are being answered come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        while self._one():
            pass
        self._store.close()

    def _one(self) -> bool:
        """Do what is next, and keep hold of nothing (a model above all) while there is nothing to do."""
        work = self._next()
        if work is None:
            return False
        try:
            self._watched(work) if isinstance(work, Served) else self._take(work)
        except Exception as error:  # whatever it is, serving goes on
            self.failed += 1
            known = isinstance(error, PocketvitError | sqlite3.Error)
            log.error("a request was not watched: %s", error, exc_info=None if known else error)
        finally:
            self._done(work)
        return True

    def _next(self) -> Served | _Answered | None:
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._waiting or self._stop)
            if self._stop:
                self._new.clear()
            if not self._new and not self._waiting:
                return None
            self._busy = True
            return self._new.popleft() if self._new else self._waiting.popleft()

    def _done(self, work: Served | _Answered) -> None:
        with self._changed:
            self._busy = False
            self._held -= 0 if isinstance(work, Served) else work.photo.nbytes
            self._changed.notify_all()

    def _take(self, answered: _Answered) -> None:
        watched = self._watched(answered.served)
        values = watched.measure(answered.photo, answered.result, answered.seconds)
        with self.lock:
            changes = watched.take(values)
            if watched.learn(REQUESTS, LEARN):
                self._store.keep_reference(watched.key, watched.reference)
        self._store.add(watched.key, answered.time, values, changes)
        for change in changes:
            self._tell(event_of(watched.who, answered.time, change, watched.statistics))

    def _watched(self, served: Served) -> Watched:
        """What is known of a model; at its first request what the file knows, or what the photos say."""
        who = Who.of(served)
        if who.key in self.watched:
            return self.watched[who.key]
        with Reader(self.path) as reader:
            reference = reader.reference(who.key)
            known = reference is not None and self._is_of_photos(reference)
            reference = reference if known else self._of_photos(served)
            found = Watched.of(who, reference or Reference("", {}, {}))
            _recall(found, reader)
        if reference is None:  # the server ends: the next one measures all photos
            return found
        if not known and reference.values:
            self._store.keep_reference(who.key, reference)
        with self.lock:
            self.watched[who.key] = found
            self._forget(who.name)
        return found

    def _is_of_photos(self, reference: Reference) -> bool:
        """Whether a reference was taken from the photos of the folder, where there is one."""
        return reference.key == self._key and (not self._key or PHOTOS in reference.sources.values())

    def _of_photos(self, served: Served) -> Reference | None:
        """The reference that the photos make, empty and without their key where they make none; None at the end."""
        watched = Watched.of(Who.of(served), Reference(self._key, {}, {}))
        step = max(1.0, len(self._photos) / MOST_PHOTOS)
        for index in np.arange(0, len(self._photos), step).astype(int):
            if self._stop:
                return None
            try:
                photo = read_image(self._photos[index])
                watched.take(watched.measure(photo, served.model(photo), None))
            except PocketvitError as error:
                log.warning("a photo of the reference was left out: %s", error.what)
        return watched.reference if watched.learn(PHOTOS, LEAST_REFERENCE) else Reference("", {}, {})

    def _forget(self, name: str) -> None:
        """Let go of versions that are served no more, but for the latest ones; the file still knows them."""
        served = {Who.of(each).key for each in self._models.all()} if self._models is not None else set()
        old = [key for key, each in self.watched.items() if each.who.name == name and key not in served]
        for key in old[:-MOST_OLD]:
            del self.watched[key]


def _recall(watched: Watched, reader: Reader) -> None:
    """Show the windows what was watched before the server ended."""
    drifting = reader.drifting(watched.key)
    for _, values in reader.requests(watched.key, WINDOW):
        for name, value in values.items():
            if name in watched.watches:
                watched.watches[name].recent.append(value)
    for name in drifting & set(watched.watches):
        watched.watches[name].drifting = True


def _digest(photos: list[Path]) -> str:
    """Of names and sizes; the photos of a folder are few and large, and are not read for it."""
    text = "\n".join(f"{path.name} {path.stat().st_size}" for path in photos)
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16] if photos else ""


def event_of(who: Who, at: float, change: Change, statistics: tuple[Statistic, ...]) -> dict[str, Any]:
    """A change for people and programs, in the statistic's own unit."""
    statistic = next(each for each in statistics if each.name == change.statistic)
    ends = {"before": statistic.plain(change.before), "after": statistic.plain(change.after)}
    model = {"model": who.name, "version": who.version, "digest": who.digest}
    return {
        "time": at,
        **model,
        "statistic": change.statistic,
        "unit": statistic.unit,
        **ends,
        "detector": change.detector,
    }
