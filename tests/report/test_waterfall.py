"""The way from the float file to the chosen one: which steps are drawn, and in which order."""

from __future__ import annotations

from pocketvit.report.plots import DARK, chain_of, waterfall_plot


def step(name: str, kept: bool, ms: tuple[float, float], size: tuple[int, int]) -> dict[str, object]:
    figures = {"metric_before": 90.0, "metric_after": 89.5, "latency_ms_before": ms[0], "latency_ms_after": ms[1]}
    return {"step": name, "kept": kept, **figures, "bytes_before": size[0], "bytes_after": size[1]}


LINEAGE = [
    step("a onnxruntime:prune > int8", True, (8.0, 5.0), (15_000_000, 4_000_000)),
    step("a onnxruntime:prune", True, (12.0, 8.0), (22_000_000, 15_000_000)),
    step("a onnxruntime:prune > int8 (library default)", False, (8.0, 7.0), (15_000_000, 4_000_000)),
    step("a onnxruntime:int8", True, (12.0, 9.0), (22_000_000, 6_000_000)),
]


def test_the_waterfall_has_the_kept_steps_that_led_to_the_chosen_file_in_order() -> None:
    chosen = "a onnxruntime:prune > int8"
    assert [each["step"] for each in chain_of(chosen, LINEAGE)] == ["a onnxruntime:prune", chosen]
    assert chain_of("a onnxruntime:fp32", LINEAGE) == []
    assert waterfall_plot("a onnxruntime:fp32", LINEAGE, metric_label="top1") is None
    drawn = waterfall_plot(chosen, LINEAGE, metric_label="top1, %")
    assert drawn is not None
    assert drawn.startswith("<?xml")
    assert drawn != waterfall_plot(chosen, LINEAGE, metric_label="top1, %", theme=DARK)
    assert drawn != waterfall_plot("a onnxruntime:int8", LINEAGE, metric_label="top1, %")
    untimed = [{**each, "latency_ms_after": None} for each in LINEAGE]
    assert waterfall_plot(chosen, untimed, metric_label="top1, %") not in (None, drawn)
