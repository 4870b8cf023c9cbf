"""Few values for a weight matrix: k-means, and indices and values fitted to what the layer's outputs lose.

A matrix (in, out) becomes ``table[indices] * scales`` with one scale for each output channel. What counts is the error
of the outputs on real inputs, ``tr((W - Q)^T H (W - Q))`` with ``H`` the inputs' second moments: the table is drawn
with the diagonal of H as weights (Kim et al. 2024, SqueezeLLM, eq. 3), indices make up for each other's errors (Frantar
et al. 2023, GPTQ, algorithm 1, with the largest diagonal first), and scales and table are solved for by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_BINS, _LLOYD = 4096, 100
MOST_REFITTED = 32
"""Entries up to which the table is solved for; with more of them there is next to nothing to gain."""
ZEROS = 0.05
"""Share of zeros from which a matrix counts as pruned: its zeros stay what they are."""


@dataclass(frozen=True)
class Clustered:
    """A matrix (in, out) as table, indices and scales."""

    table: Floats
    """(K,), ascending."""
    indices: NDArray[np.uint8]
    """(in, out)"""
    scales: Floats
    """(out,), with no more digits than bfloat16 has, so that they are stored in two bytes."""
    error: float
    """Of the outputs, as a share of their mean square; of the weights where no inputs were seen."""


def cluster_matrix(
    matrix: Floats, bits: int, moments: Doubles | None = None, *, scaled: bool = True, rounds: int = 3
) -> Clustered:
    """Reduce a matrix to ``2 ** bits`` values times a scale for each column.

    Args:
        matrix: (in, out) float weights.
        bits: 1 to 8.
        moments: (in, in) mean of x x^T over inputs x, damped; without it every input counts alike and alone.
        scaled: one scale for each output channel; else all are 1.
        rounds: how often indices, scales and table are fitted in turn; the best round counts.
    """
    held = matrix == 0
    held = held if held.mean() >= ZEROS else np.zeros_like(held)
    scales = _short(np.sqrt(np.mean(matrix.astype(np.float64) ** 2, axis=0))) if scaled else _ones(matrix)
    scales = np.where(scales > 0, scales, np.float32(1))
    weights = np.ones(len(matrix)) if moments is None else np.diag(moments)
    importance = np.outer(weights, scales.astype(np.float64) ** 2)
    table = _table(matrix / scales, importance, 1 << bits, held)
    product = matrix if moments is None else moments @ matrix
    power = float(np.sum(product * matrix)) or 1.0
    best: Clustered | None = None
    for turn in range(max(1, rounds)):
        indices = _assign(matrix, table, scales, moments, held)
        if turn and scaled:
            scales = _fit_scales(table[indices], scales, product, moments)
        if len(table) <= MOST_REFITTED:
            table, indices = _fit_table(table, indices, scales, product, moments)
        miss = matrix - table[indices] * scales
        error = float(np.sum((miss if moments is None else moments @ miss) * miss)) / power
        if best is None or error < best.error:
            best = Clustered(table, indices, scales, error)
    assert best is not None
    return best


def _ones(matrix: Floats) -> Floats:
    return np.ones(matrix.shape[1], np.float32)


def _short(values: NDArray[np.floating]) -> Floats:
    """Rounded to the 8 digits of bfloat16: the lower two bytes are zero."""
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _table(values: Floats, weights: Doubles, count: int, held: NDArray[np.bool_]) -> Floats:
    """``count`` values by weighted k-means; 0 is one of them where zeros are held."""
    free = ~held
    if not held.any():
        return kmeans(values.reshape(-1), weights.reshape(-1), count)
    found = kmeans(values[free], weights[free], count - 1) if free.any() else np.zeros(0, np.float32)
    return np.unique(np.append(found, np.float32(0)))


def kmeans(values: Floats, weights: Doubles, count: int) -> Floats:
    """At most ``count`` values, ascending float32, that numbers with weights are nearest to (Lloyd's algorithm).

    It starts from the cube root of the weighted density, which is where a fine quantiser's values lie (Panter and Dite
    1951), and not from random ones: the same numbers give the same table.
    """
    order = np.argsort(values, kind="stable")
    ascending, mass = values[order].astype(np.float64), weights[order] + 1e-30
    density, edges = np.histogram(ascending, _BINS, weights=mass)
    share = np.cumsum(np.cbrt(density))
    wanted = (np.arange(count) + 0.5) / count * share[-1]
    centres = np.unique(((edges[:-1] + edges[1:]) / 2)[np.searchsorted(share, wanted).clip(0, _BINS - 1)])
    sums = np.concatenate([[0.0], np.cumsum(mass * ascending)])
    masses = np.concatenate([[0.0], np.cumsum(mass)])
    for _ in range(_LLOYD):
        cuts = np.searchsorted(ascending, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(ascending)]])
        total = np.diff(masses[ends])
        moved = np.where(total > 0, np.diff(sums[ends]) / np.maximum(total, 1e-300), centres)
        if np.allclose(moved, centres, rtol=1e-6, atol=0):
            break
        centres = moved
    return np.unique(centres.astype(np.float32))


def _nearest(values: Doubles, table: Floats) -> NDArray[np.uint8]:
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def _assign(
    matrix: Floats, table: Floats, scales: Floats, moments: Doubles | None, held: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Indices of the table: the nearest entries, or those that make up for the errors of rows before."""
    zero = np.uint8(np.argmin(np.abs(table)))
    if moments is None:
        return np.where(held, zero, _nearest((matrix / scales).astype(np.float64), table)).astype(np.uint8)
    order = np.argsort(-np.diag(moments), kind="stable")
    weight, indices = matrix[order].astype(np.float64), np.empty(matrix.shape, np.uint8)
    inverse = np.linalg.cholesky(np.linalg.inv(moments[np.ix_(order, order)])).T
    for place, row in enumerate(order):
        chosen = np.where(held[row], zero, _nearest(weight[place] / scales, table))
        indices[row] = chosen
        miss = (weight[place] - table[chosen].astype(np.float64) * scales) / inverse[place, place]
        weight[place + 1 :] -= np.outer(inverse[place, place + 1 :], miss)
    return indices


def _fit_scales(unit: Floats, scales: Floats, product: NDArray[np.floating], moments: Doubles | None) -> Floats:
    """Of each column the scale with the least error; ``product`` is ``moments @ matrix``."""
    power = np.sum((unit if moments is None else moments @ unit) * unit, axis=0)
    fitted = np.sum(product * unit, axis=0) / np.maximum(power, 1e-300)
    return np.where((power > 0) & (fitted > 0), _short(fitted), scales).astype(np.float32)


def _fit_table(
    table: Floats, indices: NDArray[np.uint8], scales: Floats, product: NDArray[np.floating], moments: Doubles | None
) -> tuple[Floats, NDArray[np.uint8]]:
    """The values with the least error for these indices, ascending; 0 stays 0, and unused ones what they are."""
    used = np.array([k for k in np.unique(indices) if table[k] != 0])
    if not len(used):
        return table, indices
    parts = [(indices == k) * scales.astype(np.float64) for k in used]
    pressed = parts if moments is None else [moments @ part for part in parts]
    normal = np.array([[np.sum(a * b) for b in parts] for a in pressed])
    wanted = np.array([np.sum(part * product) for part in parts])
    normal[np.diag_indices_from(normal)] *= 1 + 1e-9
    fitted = table.copy()
    fitted[used] = np.linalg.lstsq(normal, wanted, rcond=None)[0]
    order = np.argsort(fitted, kind="stable")
    return fitted[order], np.argsort(order).astype(np.uint8)[indices]
