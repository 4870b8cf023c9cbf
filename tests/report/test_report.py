from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from rich.console import Console

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.report.command import golden_pictures, report
from pocketvit.report.data import CandidateRow, ReportData, figure, load_report, save_report
from pocketvit.report.html import limits, picture_uri, render_html, write_report
from pocketvit.report.plots import DARK, LIGHT, curves_plot, exits_plot, in_dark, pareto_front, pareto_plot, read_curves
from pocketvit.report.table import candidates_table
from pocketvit.spec.golden import Golden
from pocketvit.spec.manifest import LevelSpec, Manifest
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks import TASKS
from tests.tiny import make_tiny_artifact

ROWS = [
    CandidateRow("small onnxruntime:fp32", 30.21, 41.2, 43.9, 2.41, 161.0, "too slow", "latency_ms 41.2 > 33"),
    CandidateRow("small onnxruntime:int8", 30.05, 27.3, 29.1, 0.74, 140.0, "chosen", "Fastest above the floor.", True),
    CandidateRow("library default int8", 0.1, 26.9, 28.0, 0.71, None, "rejected", "lost <b>everything</b>"),
    CandidateRow("large", None, 92.0, 99.0, 9.9, None, "dropped", "too slow before training"),
]


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    clean = skimage.data.astronaut()[:48, :64]
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 25, clean.shape), 0, 255).astype(np.uint8)
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,val_psnr,lr\n0,1.0,28,0.1\n1,0.5,,0.1\n2,0.25,30,0.1\n")
    return ReportData(
        title="demo",
        task="restore",
        metric_name="psnr@sigma25",
        metric_unit="dB",
        budget={"latency_ms": 33.0, "percentile": "p50", "size_mb": 4.0, "memory_mb": None},
        floor={"value": 29.9, "max_drop": 0.2},
        candidates=ROWS,
        pictures=[("astronaut", [("noisy 20.6 dB", noisy), ("restored", clean), ("clean", clean)])],
        environment={"cpu": "some cpu", "engines": {"onnxruntime": "1.31.1"}, "flags": ["avx2", "amx"]},
        lineage=[
            {
                "step": "int8",
                "kept": True,
                "reason": "1.5 times faster",
                "metric_before": 30.21,
                "metric_after": 30.05,
                "bytes_before": 2_410_000,
                "bytes_after": 740_000,
            }
        ],
        rankings={"int8": [("blocks.0.mlp", 0.5), ("blocks.1.attn", 2.0)]},
        curves=tmp_path / "metrics.csv",
        notes=["A note."],
        verification={
            "passed": True,
            "checks": [{"name": "checksums", "passed": True, "detail": "4 files", "variant": "openvino:bf16"}],
        },
    )


def test_html_holds_every_section_and_nothing_from_outside(data: ReportData) -> None:
    text = render_html(data)
    for section in (
        "candidates",
        "chosen",
        "rejected",
        "pareto",
        "pictures",
        "sensitivity",
        "lineage",
        "verification",
        "curves",
        "environment",
    ):
        assert f'<section id="{section}">' in text, section
    assert "small onnxruntime:int8: 30.05 dB, 27.3 ms, 0.740 MB" in text
    for words in (
        "latency p50 at most 33 ms",
        "latency_ms 41.2 &gt; 33",
        "engines.onnxruntime",
        "avx2, amx",
        "A note.",
        "4 files",
        "openvino:bf16",
        "30.21 → 30.05",
        "2.41 → 0.740",
    ):
        assert words in text, words
    assert "lost &lt;b&gt;everything" in text
    without_data = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//|<script|@import|url\(|src=\"(?!\")", without_data)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_sections_without_data_are_left_out() -> None:
    text = render_html(ReportData(title="empty", task="restore", metric_name="psnr", metric_unit="dB"))
    assert "<section" not in text
    assert "<h1>empty</h1>" in text


def test_rankings_are_sorted_and_scaled(data: ReportData) -> None:
    text = render_html(data)
    assert text.index("blocks.1.attn") < text.index("blocks.0.mlp")
    assert "width:100.0%" in text
    assert "width:25.0%" in text


def test_nothing_fits_is_the_headline(data: ReportData) -> None:
    rows = [replace(row, chosen=False) for row in ROWS]
    assert replace(data, candidates=rows).verdict == "Nothing fits."
    assert replace(data, candidates=rows, headline="No.").verdict == "No."
    assert 'id="chosen"' not in render_html(replace(data, candidates=rows))


def test_limits_in_words() -> None:
    data = ReportData(
        "t",
        "classify",
        "top1",
        "%",
        budget={"latency_ms": 5, "percentile": "p90", "memory_mb": 100},
        floor={"max_drop": 0.5},
    )
    assert limits(data) == [
        "latency p90 at most 5 ms",
        "peak memory at most 100 MB",
        "top1 at most 0.5 % below the float model",
    ]


def test_save_and_load_give_the_same_report(data: ReportData, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert save_report(run, data) == run / "report.json"
    loaded = load_report(run)
    assert loaded.candidates == ROWS
    assert np.array_equal(loaded.pictures[0][1][0][1], data.pictures[0][1][0][1])
    assert render_html(loaded) == render_html(data)
    save_report(run, replace(data, pictures=[]))
    assert load_report(run).pictures == []
    assert list((run / "pictures").iterdir()) == []


def test_nan_is_saved_as_null(data: ReportData, tmp_path: Path) -> None:
    save_report(tmp_path, replace(data, candidates=[replace(ROWS[0], metric=float("nan"), p50_ms=np.float64(3.0))]))
    row = json.loads((tmp_path / "report.json").read_text())["candidates"][0]
    assert (row["metric"], row["p50_ms"]) == (None, 3.0)


@pytest.mark.parametrize(
    "damage",
    [
        "not json",
        "{}",
        '{"pictures": []}',
        '{"pictures": [{"caption": "c", "panels": [{"label": "l", "file": "../x.png"}]}]}',
        "[]",
    ],
)
def test_damaged_report_data(tmp_path: Path, damage: str) -> None:
    (tmp_path / "report.json").write_text(damage)
    with pytest.raises(DataError, match=r"report\.json"):
        load_report(tmp_path)


def test_report_command_rebuilds_a_run(data: ReportData, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_report(run, data)
    result = report(str(run))
    assert result.path == run / "report.html"
    assert result.path.read_text(encoding="utf-8") == render_html(data)
    assert result.headline in result.render()
    assert result.to_dict() == {"path": str(run / "report.html"), "headline": data.verdict}
    assert report(str(run), out=str(tmp_path / "sub" / "x.html")).path == tmp_path / "sub" / "x.html"
    assert report(str(run), out=str(tmp_path)).path == tmp_path / "report.html"


def test_report_of_a_training_run_shows_its_curves(data: ReportData, tmp_path: Path) -> None:
    text = report(str(tmp_path)).path.read_text(encoding="utf-8")
    assert '<section id="curves">' in text
    assert 'id="candidates"' not in text


def test_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run"):
        report(str(tmp_path / "nowhere"))


def test_report_that_cannot_be_written(data: ReportData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", data)
    with pytest.raises(DataError, match="cannot be written"):
        save_report(tmp_path / "file", data)


@pytest.mark.parametrize(
    ("shape", "size"), [((40, 64, 3), (128, 80)), ((200, 300, 3), (300, 200)), ((1000, 1800, 3), (900, 500))]
)
def test_pictures_are_scaled_for_the_page(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    uri = picture_uri(np.full(shape, 90, np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == size
        assert image.getpixel((0, 0)) == (90, 90, 90)


def exit_points(timed: bool = True) -> list[dict[str, object]]:
    """Three thresholds of a file with two exits, of which the second is the chosen one."""
    shares = ([0.5, 0.3, 0.2], [0.25, 0.25, 0.5], [0.0, 0.0, 1.0])
    return [
        {"threshold": t, "shares": x, "metric": 80.0 + 10 * t, "ms": 4 + 6 * t if timed else None, "chosen": t == 0.9}
        for t, x in zip((0.5, 0.9, 1.0), shares, strict=True)
    ]


def test_early_exits_are_drawn_saved_and_shown(data: ReportData, tmp_path: Path) -> None:
    names = ["net onnxruntime:early_exit", "net openvino:early_exit"]
    with_exits = replace(data, exits=dict(zip(names, (exit_points(), exit_points(timed=False)), strict=True)))
    page = render_html(with_exits)
    assert 'id="exits"' in page
    assert all(f"<h3>{name}</h3>" in page for name in names)
    assert 'id="exits"' not in render_html(data)
    save_report(tmp_path / "kept", with_exits)
    assert load_report(tmp_path / "kept").exits == with_exits.exits
    assert exits_plot([], metric_label="top1, %") is None
    both = [(exit_points(timed), theme) for timed in (True, False) for theme in (LIGHT, DARK)]
    drawn = [exits_plot(points, metric_label="top1, %", theme=theme) for points, theme in both]
    assert len(set(drawn)) == 4
    assert all(plot is not None and plot.count("<svg") == 1 for plot in drawn)


def test_pareto_front() -> None:
    assert pareto_front([(3, 1.0), (1, 2.0), (2, 3.0), (2, 1.0), (4, 3.0)]) == [(1, 2.0), (2, 3.0)]


def test_pareto_plot_draws_each_theme_and_skips_what_was_not_measured() -> None:
    light = pareto_plot(ROWS, metric_label="psnr, dB", latency_limit=33.0, floor=29.9)
    assert light is not None
    assert light.lstrip().startswith("<?xml")
    assert light == pareto_plot(ROWS, metric_label="psnr, dB", latency_limit=33.0, floor=29.9)
    assert LIGHT.chosen in light
    assert LIGHT.limit in light
    dark = pareto_plot(ROWS, metric_label="psnr, dB", theme=DARK)
    assert dark is not None
    assert DARK.chosen in dark
    assert DARK.limit not in dark
    assert pareto_plot(ROWS[3:], metric_label="psnr") is None
    assert pareto_plot([ROWS[0]], metric_label="psnr", percentile="p90") is not None


def test_a_plot_in_the_dark_is_the_one_that_would_be_drawn_for_it(data: ReportData, tmp_path: Path) -> None:
    def shapes(svg: str | None) -> str:
        assert svg is not None
        return re.sub(r"\bm[0-9a-f]{10}\b", "m", svg)  # markers are named after their shape and colour

    limits = {"metric_label": "psnr, dB", "latency_limit": 33.0, "floor": 29.9}
    assert shapes(in_dark(pareto_plot(ROWS, **limits) or "")) == shapes(pareto_plot(ROWS, **limits, theme=DARK))
    curves = tmp_path / "metrics.csv"
    assert shapes(in_dark(curves_plot(curves) or "")) == shapes(curves_plot(curves, theme=DARK))
    drawn = exits_plot(exit_points(), metric_label="top1, %")
    assert shapes(in_dark(drawn or "")) == shapes(exits_plot(exit_points(), metric_label="top1, %", theme=DARK))


def test_curves_are_read_and_drawn(data: ReportData, tmp_path: Path) -> None:
    name, curves = read_curves(tmp_path / "metrics.csv")
    assert name == "epoch"
    assert curves["val_psnr"] == ([0.0, 2.0], [28.0, 30.0])
    drawn = curves_plot(tmp_path / "metrics.csv", theme=LIGHT)
    assert drawn is not None
    assert LIGHT.lines[0] in drawn
    (tmp_path / "lr.csv").write_text("step,lr\n1,2\n")
    assert curves_plot(tmp_path / "lr.csv") is None


def test_epochs_on_axes_are_whole(data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("pocketvit.report.plots._svg", lambda figure: figures.append(figure) or "svg")
    curves_plot(tmp_path / "metrics.csv")
    for axes in figures[0].axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", None])
def test_wrong_curves(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match=r"c\.csv"):
        read_curves(tmp_path / "c.csv")


def test_terminal_table() -> None:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(candidates_table([*ROWS, replace(ROWS[3], name="[bold]odd[/bold]")], "psnr", "dB", reasons=True))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    text = "\n".join(lines)
    assert re.search(r"small onnxruntime:int8\s+30\.05\s+27\.3 / 29\.1\s+0\.740\s+140\s+chosen", text)
    assert "Fastest above the floor." in text
    assert "[bold]odd[/bold]" in text
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(candidates_table(ROWS[3:], "psnr"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "RAM" not in text
    assert "too slow before" not in text


@pytest.mark.parametrize(
    ("value", "unit", "digits", "expected"),
    [
        (None, "ms", 4, "-"),
        (float("nan"), "", 4, "-"),
        (30.2149, "dB", 4, "30.21 dB"),
        (0.0, "", 4, "0"),
        (1234.5, "MB", 3, "1234 MB"),
        (0.7444, "", 3, "0.744"),
        (float("inf"), "dB", 4, "inf dB"),
        (0.00012, "", 4, "0.00012"),
    ],
)
def test_figures(value: float | None, unit: str, digits: int, expected: str) -> None:
    assert figure(value, unit, digits) == expected


def _manifest(task: str, levels: list[LevelSpec]) -> Manifest:
    spec = Preprocess(size=(8, 8))
    return Manifest(
        name="x",
        task=task,
        levels=levels,
        preprocess=spec,
        inputs=[],
        outputs=TASKS[task].outputs(levels, spec, TASKS[task].config()),
        files=[],
        variants=[],
        default="onnxruntime:fp32",
        main_metric="m",
    )


def test_golden_pictures_of_both_tasks() -> None:
    inputs = np.full((2, 8, 8, 3), 100, np.uint8)
    restored = {"restored": np.full((2, 8, 8, 3), 120.6, np.float32)}
    pictures = golden_pictures(
        _manifest("restore", []), Golden(inputs, restored, (), inputs + 20, Preprocess(size=(8, 8)))
    )
    assert [label for label, _ in pictures[0][1]] == ["input", "restored", "truth"]
    assert pictures[1][1][1][1].max() == 121
    levels = [LevelSpec(name="fine", labels=["apple", "pear"])]
    outputs = {"probs_fine": np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)}
    manifest = _manifest("classify", levels)
    pictures = golden_pictures(manifest, Golden(inputs, outputs, (), np.array([[1], [1]]), Preprocess(size=(8, 8))))
    assert [panels[0][0] for _, panels in pictures] == ["truth: pear", "truth: pear"]
    assert pictures[0][1][0][1].shape == (32, 160, 3)


@pytest.mark.parametrize("task", ["restore", "classify"])
def test_report_of_an_artifact(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_artifact(tmp_path / "artifact", task)
    monkeypatch.chdir(tmp_path)
    result = report("artifact")
    assert result.path == Path("report.html")
    text = result.path.read_text(encoding="utf-8")
    assert "onnxruntime:fp32" in text
    assert f"tiny-{task} 0.1.0" in text
    assert text.count("<figure>") == {"restore": 3, "classify": 8}[task]
    (tmp_path / "artifact" / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(VerificationError, match="golden"):
        report("artifact")


def test_a_run_with_an_artifact_and_curves_shows_both(data: ReportData, tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "artifact", "restore")
    text = report(str(tmp_path)).path.read_text(encoding="utf-8")
    assert '<section id="curves">' in text
    assert '<section id="candidates">' in text
