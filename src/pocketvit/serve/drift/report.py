"""What ``GET /v1/drift`` answers: each statistic now and in the reference, and what has changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from pocketvit.serve.drift.monitor import LEAST, Change
from pocketvit.serve.drift.statistics import Statistic
from pocketvit.serve.drift.store import Reader
from pocketvit.serve.drift.watcher import LEARN, Watched, Watcher, event_of
from pocketvit.spec.tasks import TASKS

MOST_EVENTS = 50


def report(watcher: Watcher) -> dict[str, Any]:
    """Plain JSON types. Blocks for as long as reading the file takes: not for the event loop."""
    with watcher.lock:
        watched = list(watcher.watched.values())
    with Reader(watcher.path) as reader:
        models = [_model(each, reader, watcher) for each in watched]
    return {"models": models, "dropped": watcher.dropped, "failed": watcher.failed}


def _model(watched: Watched, reader: Reader, watcher: Watcher) -> dict[str, Any]:
    who, signs = watched.who, TASKS[watched.who.task].signs
    with watcher.lock:
        rows = [_statistic(each, watched) for each in watched.statistics]
    events = []
    for row in reader.changes(watched.key, MOST_EVENTS):
        change = Change(*(row[name] for name in ("statistic", "before", "after", "detector")))
        events.append(event_of(who, row["time"], change, watched.statistics))
    states = {row["status"] for row in rows}
    return {
        "model": who.name,
        "version": who.version,
        "digest": who.digest,
        "task": who.task,
        "status": next((state for state in ("drift", "learning") if state in states), "ok"),
        "requests": reader.count(watched.key),
        "embedding": signs.embedding if signs else "none",
        "statistics": rows,
        "events": [{**event, "time": when(event["time"])} for event in events],
    }


def _statistic(statistic: Statistic, watched: Watched) -> dict[str, Any]:
    row: dict[str, Any] = {"name": statistic.name, "unit": statistic.unit, "meaning": statistic.meaning}
    watch = watched.watches.get(statistic.name)
    if watch is None:
        learnt = len(watched.learnt.get(statistic.name, ()))
        return {**row, "status": "learning", "learnt": learnt, "wanted": LEARN, "reference": None, "current": None}
    source = watched.reference.sources[statistic.name]
    return {
        **row,
        "status": "drift" if watch.drifting else "ok",
        "reference": {"source": source, **_summary(statistic, watch.reference)},
        "current": _summary(statistic, np.array(watch.recent)) if len(watch.recent) >= LEAST else None,
        "p": watch.probability(),
    }


def _summary(statistic: Statistic, values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Count and percentiles, in the statistic's own unit."""
    low, middle, high = (statistic.plain(float(value)) for value in np.percentile(values, (10, 50, 90)))
    return {"count": len(values), "p10": low, "p50": middle, "p90": high}


def when(seconds: float) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
