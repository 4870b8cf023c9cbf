"""How far an exported file may be from the trained model on the goldens, by task and precision: one table, written into every manifest."""

from __future__ import annotations

TOLERANCES: dict[str, dict[str, dict[str, float]]] = {
    # Pixels, 0 to 255, against goldens that are rounded to 1/16; metric_drop in dB of PSNR.
    "restore": {
        "fp32": {"max_abs": 0.25, "mean_abs": 0.02, "min_cosine": 0.99999, "metric_drop": 0.02},
        "fp16": {"max_abs": 4.0, "mean_abs": 0.25, "min_cosine": 0.9999, "metric_drop": 0.1},
        "bf16": {"max_abs": 32.0, "mean_abs": 1.0, "min_cosine": 0.999, "metric_drop": 0.2},
        "int8": {"mean_abs": 5.0, "metric_drop": 0.5},
    },
    # Probabilities; metric_drop and agreement in percentage points, of which one of 32 goldens is 3.1.
    "classify": {
        "fp32": {"max_abs": 2e-3, "mean_abs": 2e-4, "min_cosine": 0.9999, "metric_drop": 0.0, "min_agreement": 100.0},
        "fp16": {"max_abs": 0.05, "mean_abs": 5e-3, "min_cosine": 0.99, "metric_drop": 4.0, "min_agreement": 93.0},
        "bf16": {"max_abs": 0.3, "mean_abs": 0.02, "min_cosine": 0.95, "metric_drop": 7.0, "min_agreement": 87.0},
        "int8": {"mean_cosine": 0.95, "metric_drop": 7.0, "min_agreement": 84.0},
    },
}
"""Largest and mean absolute difference, cosine similarity, loss of the main metric, share of equal answers. For int8 the metric
decides: single values have no limit."""
