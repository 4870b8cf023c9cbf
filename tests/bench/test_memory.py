from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.bench.memory import _own_peak_mb, fresh_run, parse_size, peak_rss_mb, synthetic, timing_image
from pocketvit.errors import PocketvitError, UsageError
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.images import write_image
from tests.tiny import make_tiny_artifact, photo


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("memory") / "a", "classify")


def test_a_fresh_process_does_not_count_ours(artifact: Artifact) -> None:
    ballast = np.ones(60_000_000)  # 480 MB here
    assert _own_peak_mb() > 480
    peak = peak_rss_mb(artifact.path, "onnxruntime:fp32:1")
    assert 30 < peak < 400
    assert ballast.sum() == 60_000_000


def test_a_larger_image_takes_more(artifact: Artifact, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(50, 50))
    small = fresh_run(artifact.path, "onnxruntime:fp32:1", tmp_path / "a.png")
    large = fresh_run(artifact.path, "onnxruntime:fp32:1", size=(3000, 4000))
    assert 30 < large.peak_rss_mb - small.peak_rss_mb < 150  # 36 MB of pixels and their making
    assert fresh_run(artifact.path, "onnxruntime:fp32:1", photo(50, 50)).peak_rss_mb == pytest.approx(
        small.peak_rss_mb, rel=0.2
    )
    assert small.load_ms > 0
    assert small.first_ms > 0


def test_failures_of_the_child_are_told(artifact: Artifact) -> None:
    with pytest.raises(PocketvitError, match="holds no variant openvino:int8"):
        fresh_run(artifact.path, "openvino:int8")


def test_sizes() -> None:
    assert parse_size("321x481") == (321, 481)
    assert parse_size("8X9") == (8, 9)
    for text in ("", "5", "5x", "0x5", "-1x3", "axb", "1x2x3", "1.5x2"):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
            parse_size(text)


def test_the_stand_in_picture_is_always_the_same(tmp_path: Path) -> None:
    assert synthetic((30, 40)).shape == (30, 40, 3)
    np.testing.assert_array_equal(synthetic((30, 40)), timing_image(None, (30, 40)))
    write_image(tmp_path / "a.png", photo(9, 8))
    np.testing.assert_array_equal(timing_image(tmp_path / "a.png", (30, 40)), photo(9, 8))
