from dataclasses import replace
from pathlib import Path

from pocketvit.fit.result import FitReport
from pocketvit.fit.tables import candidate_rows, lineage

from .rows_for_tests import row


def test_reasons_are_why_a_row_was_chosen_or_what_it_has_against_it(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90.0, 20, 400, reason="the float file")
    step = row(tmp_path, "int8", 89.9, 10, 100, precision="int8", reason="2.00x speed, 4.00x smaller, psnr -0.1 dB")
    missed = row(tmp_path, "late", 91.0, 50, 400, misses=("latency_ms 50 > 30",), reason="the float file")
    why = "the best metric within 30 ms (p50), then the fastest of 2 equals"
    first, second, third = candidate_rows([replace(base, chosen=True), step, missed], why)
    assert first.reason == why
    assert second.reason == "89.90 against 90.00 dB, 10.00 against 20.00 ms, 0.100 against 0.400 MB"
    assert third.reason == "latency_ms 50 > 30"
    assert first.interval == "89.0 to 91.0, 1000 photos"
    other = candidate_rows([base, replace(step, chosen=True)], why)[1]
    assert other.reason == f"{why}. Against the file it was made from: 2.00x speed, 4.00x smaller, psnr -0.1 dB"
    report = FitReport(tmp_path, tmp_path, "int8", why, "m", "dB", (base, replace(step, chosen=True)))
    assert report.to_dict()["candidates"][1]["reason"] == other.reason


def test_the_lineage_names_the_calibration_set_of_steps_that_had_one(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90.0, 20, 400)
    int8 = row(tmp_path, "int8", 89.9, 10, 100, precision="int8", before=base.name, calibration=(64, "ab" * 32))
    plain = row(tmp_path, "weights", 89.9, 10, 100, precision="weights", before=base.name)
    first, second = lineage([base, int8, plain])
    assert first.calibration is not None
    assert (first.calibration.images, first.calibration.sha256) == (64, "ab" * 32)
    assert second.calibration is None
