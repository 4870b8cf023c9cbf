"""k-means and fitting: against brute force where that is possible, and each part against doing without it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pocketvit.compress.codebook import cluster_matrix, kmeans

RNG = np.random.default_rng(0)


def moments(channels: int, tokens: int = 400, mixed: float = 0.7) -> np.ndarray:
    """Of inputs that hang together and are of unlike loudness, as those of real layers."""
    basis = RNG.normal(size=(channels, channels)) * mixed + np.eye(channels)
    rows = RNG.normal(size=(tokens, channels)) @ basis * RNG.uniform(0.1, 3, channels)
    moments = rows.T @ rows / tokens
    return moments + 0.01 * np.mean(np.diag(moments)) * np.eye(len(moments))


def best_split_cost(values: np.ndarray, weights: np.ndarray, count: int) -> float:
    """The least weighted cost of all ways to cut sorted numbers into groups."""

    def cost(part: slice) -> float:
        v, w = values[part], weights[part]
        return float(np.sum(w * (v - np.sum(w * v) / np.sum(w)) ** 2))

    ways = combinations(range(1, len(values)), count - 1)
    return min(sum(cost(slice(a, b)) for a, b in zip((0, *cuts), (*cuts, len(values)))) for cuts in ways)


def test_kmeans_is_near_the_best_there_is() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = np.sort(rng.normal(size=18)).astype(np.float32)
        weights = rng.uniform(0.1, 5, 18)
        table = kmeans(values, weights, 3)
        got = np.sum(weights * np.min((values[:, None] - table) ** 2, axis=1))
        assert got < 1.35 * best_split_cost(values.astype(np.float64), weights, 3)


def test_kmeans_reaches_the_quantisers_of_a_normal_density() -> None:
    """Max 1960, table I: mean squared errors of the best 4 and 16 values for unit variance."""
    values = RNG.normal(size=200_000).astype(np.float32)
    for count, known in ((4, 0.1175), (16, 0.009497)):
        table = kmeans(values, np.ones(len(values)), count)
        error = np.mean(np.min((values[:, None] - table) ** 2, axis=1))
        assert error == pytest.approx(known, rel=0.02)


def test_kmeans_follows_the_weights_and_takes_what_is_there() -> None:
    values = np.array([0, 0.1, 5, 5.1], np.float32)
    np.testing.assert_allclose(kmeans(values, np.array([1, 3, 1, 1.0]), 2), [0.075, 5.05], rtol=1e-5)
    np.testing.assert_array_equal(kmeans(np.full(9, 2.5, np.float32), np.ones(9), 16), [2.5])
    three = kmeans(np.repeat(np.array([1, 2, 4], np.float32), 5), np.ones(15), 16)
    np.testing.assert_array_equal(three, [1, 2, 4])


def error_of(matrix: np.ndarray, inputs: np.ndarray, **settings: object) -> float:
    found = cluster_matrix(matrix, 3, inputs, **settings)
    miss = matrix - found.table[found.indices] * found.scales
    return float(np.sum((inputs @ miss) * miss) / np.sum((inputs @ matrix) * matrix))


def test_errors_make_up_for_each_other() -> None:
    matrix, seen = RNG.normal(size=(64, 48)).astype(np.float32), moments(64)
    plain = cluster_matrix(matrix, 3)
    miss = matrix - plain.table[plain.indices] * plain.scales
    unfitted = float(np.sum((seen @ miss) * miss) / np.sum((seen @ matrix) * matrix))
    assert error_of(matrix, seen) < 0.5 * unfitted
    assert error_of(matrix, seen, rounds=3) <= error_of(matrix, seen, rounds=1)
    found = cluster_matrix(matrix, 3, seen)
    assert found.error == pytest.approx(error_of(matrix, seen), rel=1e-4)


def test_scales_help_where_channels_are_unlike() -> None:
    matrix = (RNG.normal(size=(64, 48)) * np.geomspace(0.05, 1, 48)).astype(np.float32)
    assert cluster_matrix(matrix, 3).error < 0.6 * cluster_matrix(matrix, 3, scaled=False).error
    assert (cluster_matrix(matrix, 3, scaled=False).scales == 1).all()
    assert (cluster_matrix(matrix, 3).scales.view(np.uint32) & 0xFFFF == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_table_has_as_many_values_as_bits_allow_in_order(bits: int) -> None:
    matrix = RNG.normal(size=(96, 64)).astype(np.float32)
    found = cluster_matrix(matrix, bits, moments(96), rounds=2)
    assert len(found.table) <= 2**bits
    assert (np.diff(found.table) >= 0).all()
    assert found.indices.shape == matrix.shape
    assert found.indices.max() < len(found.table)
    assert found.error < {1: 0.5, 2: 0.2, 4: 0.02, 8: 0.0001}[bits]


def test_zeros_of_a_pruned_matrix_stay_zero() -> None:
    matrix, seen = RNG.normal(size=(64, 48)).astype(np.float32), moments(64)
    matrix[RNG.random(matrix.shape) < 0.6] = 0
    for inputs in (None, seen):
        found = cluster_matrix(matrix, 4, inputs)
        values = found.table[found.indices] * found.scales
        assert (values[matrix == 0] == 0).all()
        assert len(found.table) <= 16


def test_matrices_of_nothing_do_no_harm() -> None:
    seen = moments(16)
    for matrix in (np.zeros((16, 8)), np.full((16, 8), 0.5), np.concatenate([np.zeros((16, 4)), np.ones((16, 4))], 1)):
        found = cluster_matrix(matrix.astype(np.float32), 4, seen)
        np.testing.assert_allclose(found.table[found.indices] * found.scales, matrix, atol=3e-3)
