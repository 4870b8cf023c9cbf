"""Average precision of boxes as COCO computes it (Lin et al. 2014; pycocotools, area "all", 100 boxes for each photo).

T thresholds of overlap, D answers of one class over all photos, best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.boxes import Boxes, overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Boxes of one class and photo that count, the best ones."""
RESAMPLES = 100


def matches(boxes: Boxes, scores: NDArray[Any], truths: Boxes) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (D,) of one photo's answers of one class, best first, and at which thresholds they hit (T, D).

    Each answer, the best one first, takes the box of ``truths`` (M, 4) that it overlaps most and that is left.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:MOST]
    shared = overlaps(np.asarray(boxes)[order], truths)
    hits = np.zeros((len(THRESHOLDS), len(order)), bool)
    free = np.ones((len(THRESHOLDS), shared.shape[1]), bool)
    every = np.arange(len(THRESHOLDS))
    for i, row in enumerate(shared if shared.shape[1] else ()):
        fitting = np.where(free & (row >= THRESHOLDS[:, None]), row, -1.0)
        chosen = fitting.shape[1] - 1 - np.argmax(fitting[:, ::-1], axis=1)  # the last of equals, as COCO takes it
        hits[:, i] = fitting[every, chosen] >= 0
        free[every, chosen] &= ~hits[:, i]
    return np.asarray(scores, np.float64)[order], hits


@dataclass(frozen=True)
class Found:
    """All answers of one class, best first."""

    hits: NDArray[np.bool_]
    """(T, D)."""
    photos: NDArray[np.int64]
    """(D,) the photo of each."""
    truths: NDArray[np.int64]
    """(photos,) boxes of the class that there are."""


def gathered(rows: Sequence[tuple[int, NDArray[np.float64], NDArray[np.bool_]]], truths: NDArray[np.int64]) -> Found:
    """What :func:`matches` gave for (photo, scores, hits), sorted over all photos."""
    scores = np.concatenate([np.zeros(0), *(row[1] for row in rows)])
    hits = np.concatenate([np.zeros((len(THRESHOLDS), 0), bool), *(row[2] for row in rows)], axis=1)
    photos = np.repeat([row[0] for row in rows], [len(row[1]) for row in rows]).astype(np.int64)
    order = np.argsort(-scores, kind="stable")
    return Found(hits[:, order], photos[order], truths)


def precisions(found: Found, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(T,) average precision of one class, 0 to 1: the mean over 101 recalls of the best precision at that recall or
    beyond; NaN where there is no box. ``weights`` (photos,) counts photos several times or not at all."""
    weights = np.ones(len(found.truths)) if weights is None else weights
    wanted, each = float(weights @ found.truths), weights[found.photos]
    if wanted <= 0:
        return np.full(len(THRESHOLDS), np.nan)
    right, wrong = np.cumsum(found.hits * each, axis=1), np.cumsum(~found.hits * each, axis=1)
    share = right / (right + wrong + np.spacing(1))
    best = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    return np.array([best[t, np.searchsorted(row, RECALLS)].mean() for t, row in enumerate(right / wanted)])


def average(classes: Sequence[Found], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(3,) in %: AP over all thresholds, AP at 0.5, AP at 0.75, each the mean over the classes that have boxes; 0 where
    none has."""
    rows = np.array([precisions(each, weights) for each in classes]).reshape(-1, len(THRESHOLDS))
    rows = rows[~np.isnan(rows[:, 0])]
    if not len(rows):
        return np.zeros(3)
    mean = 100 * rows.mean(axis=0)
    return np.array([mean.mean(), mean[0], mean[5]])


def spread(classes: Sequence[Found], photos: int) -> NDArray[np.float64]:
    """(3,) standard deviation of :func:`average` over ``RESAMPLES`` draws of as many photos with replacement (the
    bootstrap, Efron 1979), always the same draws."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(photos, np.full(photos, 1 / photos), RESAMPLES).astype(np.float64)
    return np.asarray(np.std([average(classes, each) for each in draws], axis=0, ddof=1), np.float64)
