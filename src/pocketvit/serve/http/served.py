"""The models that a server answers with, by name and version, and how one takes another's place."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pocketvit.errors import UsageError
from pocketvit.runtimes.model import Model
from pocketvit.serve.http.refusal import Refusal
from pocketvit.spec.artifact import MANIFEST, sha256


@dataclass(frozen=True)
class Served:
    """A loaded model under the name and version that its manifest states."""

    model: Model
    digest: str = ""
    """First 12 hex digits of the SHA-256 of the manifest, which lists those of all files: what exactly is served."""

    @classmethod
    def of(cls, model: Model) -> Served:
        """A loaded artifact."""
        return cls(model, sha256(model.path / MANIFEST)[:12] if model.artifact else "")

    @property
    def name(self) -> str:
        """The artifact's."""
        return self.model.manifest.name

    @property
    def version(self) -> str:
        """The artifact's, as it declares it: ``1.0.0``."""
        return self.model.manifest.version

    @property
    def task(self) -> str:
        """What it does: a row of the table of tasks."""
        return self.model.manifest.task

    @property
    def half(self) -> tuple[str, str]:
        """Of half a model which half and of which split, else nothing twice."""
        split = self.model.manifest.split
        return (split.part, split.id) if split is not None else ("", "")

    @property
    def order(self) -> tuple[int, ...]:
        """Later versions compare larger."""
        return tuple(map(int, self.version.split(".")))


class Models:
    """A table of models that threads read without a lock: it is never changed, only exchanged as a whole.

    A request that has taken a model keeps it to its end, whatever takes its place meanwhile.
    """

    def __init__(self, served: Iterable[Served]) -> None:
        """Of several versions of a name the latest is the current one.

        Raises:
            UsageError: the same version of the same name twice.
        """
        table: dict[str, tuple[Served, ...]] = {}
        for one in served:
            have = table.get(one.name, ())
            if any(other.version == one.version for other in have):
                what = f"{one.name} {one.version} is given twice."
                raise UsageError(what, "Serve each version of an artifact once, or give it another name.")
            table[one.name] = tuple(sorted((*have, one), key=lambda each: each.order, reverse=True))
        self._table: Mapping[str, tuple[Served, ...]] = table
        self._writing = threading.Lock()

    def names(self) -> list[str]:
        """All names, in the order in which they were given."""
        return list(self._table)

    def current(self, name: str) -> Served:
        """What answers for a name where no version is asked for.

        Raises:
            Refusal: 404, there is no such model.
        """
        found = self._table.get(name)
        if found is None:
            raise Refusal(404, f"no model {name[:80]!r} here; there is {', '.join(self._table)}.")
        return found[0]

    def find(self, name: str, version: str | None = None) -> Served:
        """The model of a name, and of a version where one is asked for.

        Raises:
            Refusal: 404, there is no such model or version.
        """
        current, table = self.current(name), self._table
        for one in table[name] if version is not None else (current,):
            if version in (None, one.version):
                return one
        raise Refusal(404, f"{name} has no version {str(version)[:80]!r}; it has {', '.join(self.versions(name))}.")

    def versions(self, name: str) -> list[str]:
        """Versions of a name, the current one first."""
        return [one.version for one in self._table.get(name, ())]

    def all(self) -> list[Served]:
        """Every version of every model."""
        return [one for versions in self._table.values() for one in versions]

    def of_task(self, task: str) -> list[Served]:
        """The current models of a task."""
        return [versions[0] for versions in self._table.values() if versions[0].task == task]

    def replace(self, name: str, served: Served) -> Served:
        """Let another model answer for a name from the next request on; the one that did so is returned.

        Raises:
            UsageError: it has another name or task, so that clients would get something else than they asked for.
        """
        with self._writing:
            current, *others = self._table.get(name, (served,))
            same = (served.name, served.task, served.half) == (name, current.task, current.half)
            if not same or name not in self._table:  # heads out there send what this very tail takes
                what = f"{served.name} ({served.task}) cannot take the place of {name}."
                raise UsageError(what, "A model is replaced by another version of itself.")
            kept = (one for one in others if one.version != served.version)
            self._table = {**self._table, name: (served, *kept)}
            return current
