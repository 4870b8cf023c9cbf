"""In which order the variants of an artifact are tried where nobody names one."""

from __future__ import annotations

from pocketvit.spec.environment import processor
from pocketvit.spec.manifest import BenchRow, Manifest, Variant
from pocketvit.spec.tasks import TASKS


def load_order(manifest: Manifest) -> list[Variant]:
    """All variants: those that are as good as the default and surely faster here, the fastest first; the default; the
    others.

    As good is what its metric, measured on the same images, differs by no more than the metric's tie from the default's
    (or is better). Surely faster here is what the artifact's own benchmark says of a processor like this one, with
    intervals that do not overlap. Where the manifest does not say either, the default stays first.
    """
    default = next((v for v in manifest.variants if v.key == manifest.default), None)
    timed = {row.variant: row for row in manifest.benchmarks if _same_kind(row)}
    base = timed.get(manifest.default)
    if default is None or base is None:
        return sorted(manifest.variants, key=lambda v: v is not default)
    faster = {
        key: row.p50_ms
        for key, row in timed.items()
        if (row.threads, row.input_shape, row.includes) == (base.threads, base.input_shape, base.includes)
        and (row.p50_high_ms or row.p50_ms) < (base.p50_low_ms or base.p50_ms)
        and _as_good(manifest, key)
    }
    return sorted(manifest.variants, key=lambda v: (v.key not in faster, faster.get(v.key, 0.0), v is not default))


def _same_kind(row: BenchRow) -> bool:
    """Whether a timing is of a processor of this name and these instruction sets."""
    here = processor()
    return bool(row.environment) and all(row.environment.get(key) == value for key, value in here.items())


def _as_good(manifest: Manifest, key: str) -> bool:
    rows = {row.variant: row for row in manifest.metrics if row.name == manifest.main_metric and row.chosen_on}
    rows = rows or {row.variant: row for row in manifest.metrics if row.name == manifest.main_metric}
    mine, base = rows.get(key), rows.get(manifest.default)
    if mine is None or base is None or (mine.dataset, mine.split, mine.count) != (base.dataset, base.split, base.count):
        return False
    try:
        spec = TASKS[manifest.task].metric(manifest.main_metric)
    except KeyError:  # of a version that measured something else
        return False
    return spec.loss(mine.value, base.value) <= spec.tie_of(mine.count) + 1e-9
