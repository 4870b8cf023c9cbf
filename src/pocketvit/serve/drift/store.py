"""What was watched, in one SQLite file: statistics, changes, references. Never a photo, a name of a file or a path.

One thread writes, a transaction for each request, in write-ahead mode: after a kill at any moment the file holds every
request that was finished before. Readers open connections of their own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.files import make_folder
from pocketvit.serve.drift.statistics import Cloud

FILE = "drift.db"
MOST_REQUESTS, MOST_CHANGES = 50_000, 10_000
"""Rows that are kept, the latest ones; about 20 MB."""
_SWEEP_EVERY = 1000
_MARK, _VERSION = 0x70766474, 1
"""What SQLite's header says of a file of ours."""
_TABLES = """
CREATE TABLE IF NOT EXISTS requests (
  id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS requests_of ON requests (model, id);
CREATE TABLE IF NOT EXISTS changes (
  id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, statistic TEXT NOT NULL, before REAL NOT NULL,
  after REAL NOT NULL, detector TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refs (model TEXT PRIMARY KEY, data TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Reference:
    """What the requests of a model are held against."""

    key: str
    """Of which photos: a digest; empty where there are none."""
    sources: Mapping[str, str]
    """Name of a statistic to what its values were taken from: ``photos`` or ``first requests``."""
    values: Mapping[str, NDArray[np.float64]]
    """Name of a statistic to its (N,) values, as they are compared."""
    cloud: Cloud | None = None
    """Of the embeddings."""

    def joined(self, source: str, values: Mapping[str, NDArray[np.float64]], cloud: Cloud | None) -> Reference:
        """With more statistics."""
        sources = {**self.sources, **dict.fromkeys(values, source)}
        return Reference(self.key, sources, {**self.values, **values}, cloud or self.cloud)

    def to_json(self) -> str:
        """Text for the file."""
        cloud = self.cloud and {"mean": self.cloud.mean.tolist(), "inverse": self.cloud.inverse.tolist()}
        values = {name: each.tolist() for name, each in self.values.items()}
        return json.dumps({"key": self.key, "sources": dict(self.sources), "values": values, "cloud": cloud})

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """The reference of such a text."""
        data = json.loads(text)
        values = {name: np.array(each) for name, each in data["values"].items()}
        cloud = data["cloud"] and Cloud(np.array(data["cloud"]["mean"]), np.array(data["cloud"]["inverse"]))
        return cls(data["key"], data["sources"], values, cloud)


def place(path: Path) -> Path:
    """The database that a folder, existing or ending in no suffix, or a file name means."""
    return path if path.suffix and not path.is_dir() else path / FILE


class Store:
    """The file, for one writing thread."""

    def __init__(self, path: Path) -> None:
        """Open or create it.

        Raises:
            DataError: it cannot be written, is damaged, or is something else.
        """
        self.path = path
        make_folder(path.parent)
        try:
            self._base = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            mark = self._base.execute("PRAGMA application_id").fetchone()[0]
            tables = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (tables or mark) and mark != _MARK:
                raise sqlite3.DatabaseError("it is the database of something else")
            if self._base.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
                raise sqlite3.DatabaseError("it is of a newer version")
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(f"PRAGMA application_id={_MARK};PRAGMA user_version={_VERSION};{_TABLES}")
        except sqlite3.Error as error:
            what = f"{path}: cannot be used to watch ({error})."
            raise DataError(what, "Name another file or folder with --watch.folder, or delete it.") from error
        self._written = 0

    def add(self, model: str, time: float, data: Mapping[str, float], changes: Sequence[Any] = ()) -> None:
        """Keep the statistics of a request, and what they changed (:class:`monitor.Change`), in one transaction."""
        with self._transaction():
            row = (time, model, json.dumps({name: float(f"{value:.6g}") for name, value in data.items()}))
            self._base.execute("INSERT INTO requests (time, model, data) VALUES (?, ?, ?)", row)
            self._base.executemany(
                "INSERT INTO changes (time, model, statistic, before, after, detector) VALUES (?, ?, ?, ?, ?, ?)",
                [(time, model, each.statistic, each.before, each.after, each.detector) for each in changes],
            )
            self._written += 1
            if self._written % _SWEEP_EVERY == 1:
                for table, most in (("requests", MOST_REQUESTS), ("changes", MOST_CHANGES)):
                    self._base.execute(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?", (most,))

    def keep_reference(self, model: str, reference: Reference) -> None:
        """Keep what a model's requests are held against."""
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO refs VALUES (?, ?)", (model, reference.to_json()))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    def close(self) -> None:
        """Close it; what was added stays."""
        self._base.close()


class Reader:
    """The file as it is now; open it for one answer, and close it."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path, timeout=10)
        self._base.row_factory = sqlite3.Row

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    def requests(self, model: str, most: int) -> list[tuple[float, dict[str, float]]]:
        """Time and statistics of the last requests, the oldest first."""
        rows = self._base.execute(
            "SELECT time, data FROM requests WHERE model = ? ORDER BY id DESC LIMIT ?", (model, most)
        )
        return [(row["time"], json.loads(row["data"])) for row in rows][::-1]

    def count(self, model: str) -> int:
        """How many requests of a model are kept."""
        found = self._base.execute("SELECT count(*) FROM requests WHERE model = ?", (model,)).fetchone()
        return int(found[0])

    def changes(self, model: str, most: int) -> list[dict[str, Any]]:
        """The last changes, the latest first."""
        rows = self._base.execute(
            "SELECT time, statistic, before, after, detector FROM changes WHERE model = ? ORDER BY id DESC LIMIT ?",
            (model, most),
        )
        return [dict(row) for row in rows]

    def drifting(self, model: str) -> set[str]:
        """Statistics whose last change was not that they recovered."""
        rows = self._base.execute(
            "SELECT statistic, detector, max(id) FROM changes WHERE model = ? GROUP BY statistic", (model,)
        )
        return {row["statistic"] for row in rows if row["detector"] != "recovered"}

    def reference(self, model: str) -> Reference | None:
        """What a model's requests are held against, if that is known."""
        found = self._base.execute("SELECT data FROM refs WHERE model = ?", (model,)).fetchone()
        return None if found is None else Reference.from_json(found["data"])
