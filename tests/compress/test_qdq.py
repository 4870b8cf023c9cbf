from __future__ import annotations

import numpy as np

from pocketvit.compress.layers import Layer, Stats
from pocketvit.compress.qdq import evenly, fake, plan_layer


def test_loud_tokens_do_not_get_the_quantiser_to_themselves() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((400, 8)).astype(np.float32)
    wanted[:4] *= 1000
    share = evenly(wanted)
    assert share.shape == (400, 1)
    power = (wanted * share) ** 2
    assert power[:4].mean() < 20 * np.median(power[4:].mean(axis=1))
    np.testing.assert_allclose(evenly(wanted[4:] * 5), evenly(wanted[4:]) / 5, rtol=1e-4)


def test_the_bias_makes_up_for_what_rounding_takes_away() -> None:
    """Inputs just below half a step are all rounded to zero: every output lacks the same."""
    rng = np.random.default_rng(1)
    rows = np.full((256, 4), 0.4, np.float32)
    rows[:2] = [[0.0] * 4, [255.0] * 4]  # a step of 1
    weight = rng.uniform(0.5, 1, (4, 3)).astype(np.float32)
    layer = Layer("fc", "Gemm", "x", "w", "b", False, "y", None, 1)
    stats = {"x": Stats(rows.min(axis=0), rows.max(axis=0), rows)}
    options = {"smooth": (), "clip": (1.0,), "foldable": False}
    plan = plan_layer(layer, weight, stats, **options)
    assert plan.shift is not None
    got = fake(rows, plan.low, plan.high) @ (plan.values * plan.scale) + plan.shift
    assert np.abs((got - rows @ weight).mean(axis=0)).max() < 1e-4
    assert plan.shift.min() > 0.1
    plain = plan_layer(layer, weight, stats, compensate=False, **options)
    assert plain.shift is not None
    assert not plain.shift.any()
