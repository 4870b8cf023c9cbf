"""What the options of ``serve`` for watching and corrections begin, and end again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import MissingDependencyError
from pocketvit.serve.http.served import Models
from pocketvit.serve.http.telemetry import event as log_event
from pocketvit.serve.options import Watch

if TYPE_CHECKING:
    from fastapi import APIRouter

    from pocketvit.serve.http.services import Ran


@dataclass(frozen=True)
class Extras:
    """What a server gets beside its own."""

    routers: tuple[APIRouter, ...] = ()
    watchers: tuple[Callable[[Ran], None], ...] = ()


@contextmanager
def watching(models: Models, watch: Watch, collect: str | None) -> Iterator[Extras]:
    """Watch and collect as far as was asked for, until the block ends.

    Raises:
        UsageError: an address that is none.
        DataError: a folder or file cannot be used.
        MissingDependencyError: river is not installed.
    """
    routers: list[APIRouter] = []
    if collect is not None:
        from pocketvit.serve.drift.collect import Collection
        from pocketvit.serve.drift.routes import feedback_routes

        routers.append(feedback_routes(Collection(Path(collect))))
    if watch.folder is None:
        yield Extras(tuple(routers))
        return
    with _watching(models, Path(watch.folder), watch, routers) as extras:
        yield extras


@contextmanager
def _watching(models: Models, folder: Path, watch: Watch, routers: list[APIRouter]) -> Iterator[Extras]:
    from pocketvit.serve.drift.alerts import Alerts
    from pocketvit.serve.drift.routes import drift_routes
    from pocketvit.serve.drift.store import place
    from pocketvit.serve.drift.watcher import Watcher

    # Imported when there is something to compare, in the thread that watches: no request waits for it.
    if importlib.util.find_spec("river") is None:
        raise MissingDependencyError.of("river", "serve")
    alerts = None if watch.alert_url is None else Alerts(watch.alert_url)

    def tell(event: dict[str, Any]) -> None:
        log_event("drift", **{("at" if key == "time" else key): value for key, value in event.items()})
        if alerts is not None:
            alerts.tell(event)

    try:
        watcher = Watcher(place(folder), None if watch.reference is None else Path(watch.reference), tell)
        try:
            watcher.begin(models)
            yield Extras((*routers, drift_routes(watcher)), (watcher,))
        finally:
            watcher.close()
    finally:
        if alerts is not None:
            alerts.close()
