import json
import logging
import signal
import time
from pathlib import Path

import pytest
import yaml

import pocketvit
from pocketvit.errors import DataError, NothingFitsError, UsageError
from pocketvit.fit import demo
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.recipe import load_recipe
from pocketvit.train.runs import open_run
from tests.zygote import Zygote

from ..train.helpers import classify_recipe, restore_recipe, write_classes, write_photos

FAST = {
    "search.timing_seconds": 0.1,
    "search.quiet_seconds": 0,
    "compress.calibration_images": 6,
    "train.epochs": 1,
    "floor": {"value": 0, "max_drop": 60},
}


@pytest.mark.slow
def test_fit_classify_hands_over_a_verified_artifact_with_its_lineage(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d"),
        **{**FAST, "train.epochs": 4, "budget.latency_ms": 500, "floor": {"max_drop": 30}, "name": "colours"},
    )
    report = pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)
    artifact = read_artifact(report.artifact)
    assert artifact.manifest.name == "a"
    assert artifact.manifest.verification is not None
    assert artifact.manifest.verification.passed
    assert {"onnxruntime:fp32", "openvino:fp32", "onnxruntime:int8"} <= {row.key for row in report.rows}
    default = next(row for row in report.rows if "library default" in row.name)
    assert default.metric is not None or "not possible" in default.reason
    assert any("library default" in step.step for step in artifact.manifest.lineage)
    calibrated = {step.step.rpartition(" ")[2]: step.calibration for step in artifact.manifest.lineage}
    sets = {known for name, known in calibrated.items() if name.endswith(":int8") and known}
    assert len([name for name in calibrated if name.endswith(":int8")]) == 2  # both engines
    assert len(sets) == 1  # calibrated on the same images
    assert next(iter(sets)).images > 0
    chosen = next(row for row in report.rows if row.chosen)
    assert default.baseline
    assert not default.chosen
    # Every engine's finalists were timed once more in one run: as many rounds, and the interval goes into the manifest.
    finalists = [row for row in report.rows if row.kept]
    assert len({len(row.timing.times_ms) for row in finalists}) == 1
    assert len({row.runtime for row in finalists}) == 2
    timed = next(row for row in artifact.manifest.benchmarks if row.variant == chosen.key)
    assert timed.p50_low_ms <= timed.p50_ms <= timed.p50_high_ms
    assert timed.input_shape[:2] == [32, 32]
    assert any("also used to choose" in note for note in report.notes)
    assert chosen.memory_mb > 10
    assert artifact.manifest.default == chosen.key
    measured = [
        m for m in artifact.manifest.metrics if m.variant == chosen.key and m.name == artifact.manifest.main_metric
    ]
    assert measured[0].value == chosen.metric
    assert measured[0].low <= measured[0].value <= measured[0].high
    assert measured[0].chosen_on
    html = (tmp_path / "a" / "report.html").read_text()
    assert "library default" in html
    model = pocketvit.load(report.artifact)
    answer = model(tmp_path / "d" / "green" / "3.png")
    assert answer.path == ("green",)
    with pytest.raises(UsageError, match="is finished"):
        pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)


@pytest.mark.slow
def test_fit_restore_searches_models_halves_and_resumes_after_a_kill(tmp_path: Path, zygote: Zygote) -> None:
    small = {"widths": [8, 12], "encoder": [1], "decoder": [1], "bottleneck": "cw", "window": 4}
    fields = {
        **FAST,
        "train.epochs": 2,
        "search.models": ["restorer_xs", "dense_ffdnet"],
        "search.runtimes": ["onnxruntime"],
        "compress.steps": ["fp16"],
        "model.options": small,
    }
    recipe = restore_recipe(write_photos(tmp_path / "d"), **fields)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    code = (
        f"import pocketvit; pocketvit.fit({str(tmp_path / 'r.yaml')!r}, name='k', runs={str(tmp_path)!r}, quiet=True)"
    )
    process = zygote.start(code, tmp_path / "log")
    while process.poll() is None and not list((tmp_path / "k").glob("trials/*/last/state.pt")):
        time.sleep(0.01)
    assert process.kill() == -signal.SIGKILL, process.log.read_text()
    timed = (tmp_path / "k" / "timing.json").read_text()
    report = pocketvit.fit(tmp_path / "r.yaml", name="k", runs=str(tmp_path), quiet=True)
    assert (tmp_path / "k" / "timing.json").read_text() == timed
    assert sorted(json.loads(timed)) == ["dense_ffdnet-48x48", "restorer_xs-48x48"]
    trained = sorted(p.name for p in (tmp_path / "k" / "trials").iterdir())
    assert trained == ["dense_ffdnet-48x48", "restorer_xs-48x48"]
    stopped = [row.reason for row in report.rows if not row.built]
    assert len({row.origin for row in report.rows if row.built}) + len(stopped) == 2
    assert all(reason.startswith("stopped by successive halving at epoch 1 with") for reason in stopped)
    assert (tmp_path / "k" / "study.db").exists()


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "d", 2), **{**FAST, "floor.metric": "psnr"})
    with pytest.raises(UsageError, match="psnr@sigma25"):
        pocketvit.fit(recipe, name="n", runs=str(tmp_path), quiet=True)
    assert not (tmp_path / "n").exists()


def test_no_word_about_compilers_reaches_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = restore_recipe(tmp_path / "none")
    with pytest.raises(DataError):
        pocketvit.fit(recipe, name="n", runs=str(tmp_path), quiet=True)
    logging.getLogger("torch.utils.cpp_extension").warning("No CUDA runtime is found, using CUDA_HOME='/x'")
    assert not caplog.records


def test_demo_deletes_no_run_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("name: grocery\n")
    with pytest.raises(UsageError, match="no demo run"):
        pocketvit.demo(runs=str(tmp_path), name="mine", quiet=True)
    assert (tmp_path / "mine" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "place", ["mine-photos/wedding.jpg", "mine-photos/val/wedding.png", "mine/notes.txt", "../other-photos/x.jpg"]
)
def test_demo_deletes_only_what_a_demo_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A folder of the demo's name, a file added to what a demo wrote, and a name that leaves the folder of runs."""
    runs, name = tmp_path / "runs", "../other" if place.startswith("..") else "mine"
    monkeypatch.setattr("pocketvit.fit.run.run", lambda *_: pytest.fail("the demo went on"))
    if place != "mine-photos/wedding.jpg":
        write_old_demo(runs, "mine")
    (runs / place).parent.mkdir(parents=True, exist_ok=True)
    (runs / place).write_bytes(b"irreplaceable")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError):
        pocketvit.demo(runs=str(runs), name=name, quiet=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def write_old_demo(runs: Path, name: str) -> None:
    """What a demo that was killed leaves: photos, a run, unfinished files."""
    demo._write_photos(runs / f"{name}-photos")
    open_run(demo.demo_recipe(runs / f"{name}-photos", 400.0), name, str(runs))
    (runs / name / ".artifact.candidate").mkdir()
    (runs / name / ".report.partial.json").write_text("{")
    for file in ("data.json", "run.log", "advised.json", ".lock"):
        (runs / name / file).write_text("{}")


def test_demo_replaces_an_earlier_demo(tmp_path: Path) -> None:
    write_old_demo(tmp_path, "mine")
    demo.check_old(tmp_path / "mine", tmp_path / "mine-photos")


@pytest.mark.slow
def test_the_target_limits_runtime_and_precision(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d"),
        **{
            **FAST,
            "target": {"runtime": "openvino", "precision": "fp16", "threads": 1},
            "compress.steps": ["fp16", "int8"],
            "compress.min_shrink": 1.1,
            "floor.max_drop": 60,
        },
    )
    report = pocketvit.fit(recipe, name="t", runs=str(tmp_path), quiet=True)
    assert {row.key for row in report.rows} == {"openvino:fp32", "openvino:fp16"}
    assert report.chosen.endswith("openvino:fp16")
    assert read_artifact(report.artifact).manifest.benchmarks[0].threads == 1
    assert pocketvit.load(report.artifact).target.threads == 1


def test_a_budget_nothing_can_meet_names_the_nearest_misses_and_leaves_no_artifact(tmp_path: Path) -> None:
    recipe = restore_recipe(
        write_photos(tmp_path / "d", 2), **{**FAST, "budget.latency_ms": 0.001, "search.runtimes": ["onnxruntime"]}
    )
    with pytest.raises(NothingFitsError) as caught:
        pocketvit.fit(recipe, name="n", runs=str(tmp_path), quiet=True)
    assert caught.value.exit_code == 5
    assert "restorer_xs-48x48 onnxruntime:fp32" in caught.value.what
    assert "search.models" in caught.value.todo
    assert not (tmp_path / "n" / "artifact").exists()
    assert not (tmp_path / "n" / "trials").exists()
    assert "nothing fits" in (tmp_path / "n" / "report.html").read_text()


@pytest.mark.slow
def test_a_floor_or_a_memory_limit_nothing_reaches_is_refused_after_measuring(data: Path, tmp_path: Path) -> None:
    base = {**FAST, "search.runtimes": ["onnxruntime"], "compress.steps": [], "train.lr": 1e-9}
    with pytest.raises(NothingFitsError, match=r"floor"):
        pocketvit.fit(classify_recipe(data, **{**base, "floor.value": 99}), name="f", runs=str(tmp_path), quiet=True)
    with pytest.raises(NothingFitsError, match=r"memory_mb"):
        pocketvit.fit(
            classify_recipe(data, **{**base, "budget.memory_mb": 1}), name="m", runs=str(tmp_path), quiet=True
        )
    assert not (tmp_path / "m" / "artifact").exists()


@pytest.mark.slow
def test_compress_takes_a_checkpoint_and_trains_nothing(data: Path, weights: str, tmp_path: Path) -> None:
    recipe = classify_recipe(data, **{"train.epochs": 3})
    report = pocketvit.compress(
        recipe,
        checkpoint=weights,
        name="c",
        runs=str(tmp_path),
        quiet=True,
        **{**{k: v for k, v in FAST.items() if k != "train.epochs"}, "compress.steps": ["fp16"]},
    )
    assert "onnxruntime:fp16" in {row.key for row in report.rows}
    fp16 = next(row for row in report.rows if row.key == "onnxruntime:fp16")
    float_row = next(row for row in report.rows if row.key == "onnxruntime:fp32")
    assert fp16.metric == pytest.approx(float_row.metric, abs=12)
    assert not (tmp_path / "c" / "trials" / "vit_micro_patch16_224-32x32" / "metrics.csv").exists()
    with pytest.raises(UsageError, match="no trained weights"):
        pocketvit.compress(recipe, name="x", runs=str(tmp_path), quiet=True)


@pytest.mark.slow
def test_test_data_are_scored_once_for_the_chosen_file_only(tmp_path: Path) -> None:
    data, fresh = write_classes(tmp_path / "d"), write_classes(tmp_path / "fresh", per_class=4, side=36)
    fields = {**FAST, "train.epochs": 4, "data.test": [str(fresh)], "search.runtimes": ["onnxruntime"]}
    report = pocketvit.fit(classify_recipe(data, **fields), name="a", runs=str(tmp_path), quiet=True)
    tested = [m for m in read_artifact(report.artifact).manifest.metrics if m.split == "test"]
    chosen = next(row for row in report.rows if row.chosen)
    assert {(m.variant, m.count, m.chosen_on) for m in tested} == {(chosen.key, 12, False)}
    assert not any("also used to choose" in note for note in report.notes)


@pytest.mark.slow
def test_a_classifier_at_chance_level_has_learned_nothing(tmp_path: Path) -> None:
    recipe = classify_recipe(
        write_classes(tmp_path / "d"),
        **{**FAST, "floor": {}, "train.lr": 1e-9, "search.runtimes": ["onnxruntime"], "compress.steps": []},
    )
    with pytest.raises(NothingFitsError, match="learned nothing") as error:
        pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)
    assert error.value.exit_code == 5
    assert not (tmp_path / "a" / "artifact").exists()
    allowed = load_recipe(recipe, {"floor.value": 0})
    assert pocketvit.fit(allowed, name="b", runs=str(tmp_path), quiet=True).artifact.is_dir()


@pytest.mark.slow
def test_a_restorer_no_better_than_its_input_has_learned_nothing(tmp_path: Path) -> None:
    recipe = restore_recipe(
        write_photos(tmp_path / "d", 2),
        **{**FAST, "floor": {}, "train.lr": 1e-9, "search.runtimes": ["onnxruntime"], "compress.steps": []},
    )
    with pytest.raises(NothingFitsError, match=r"learned nothing: psnr@sigma25 20\.\d+ dB .* 20\.\d+ without"):
        pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)


@pytest.mark.slow
def test_every_variant_in_the_artifact_meets_the_memory_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"onnxruntime:fp16": 900.0}
    monkeypatch.setattr(
        "pocketvit.fit.handover.peak_rss_mb", lambda path, target, image, **_: peaks.get(target.key, 100.0)
    )
    fields = {**FAST, "budget.memory_mb": 500, "search.runtimes": ["onnxruntime"], "compress.steps": ["fp16"]}
    fields |= {"compress.min_shrink": 1.1, "search.prefer": "quality"}
    report = pocketvit.fit(
        classify_recipe(write_classes(tmp_path / "d"), **fields), name="a", runs=str(tmp_path), quiet=True
    )
    rows = {row.key: row for row in report.rows}
    assert rows["onnxruntime:fp16"].reason == "memory_mb 900 > 500"
    assert [v.key for v in read_artifact(report.artifact).manifest.variants] == ["onnxruntime:fp32"]


@pytest.mark.slow
def test_int8_that_misses_the_floor_goes_on_with_more_layers_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketvit.fit.measure import Measurer
    from pocketvit.spec.tasks.base import Measure

    def score(self: Measurer, built: object, part: object = None) -> tuple[Measure, ...]:
        import onnx

        nodes = onnx.load(built.path).graph.node  # type: ignore[attr-defined]
        value = 90.0 - sum(node.op_type == "QuantizeLinear" for node in nodes)  # a point lost for each layer
        return (Measure("label.top1", value, "%", 100, value, value),)

    monkeypatch.setattr(Measurer, "score", score)
    monkeypatch.setattr(Measurer, "not_learned", lambda self, row: "")
    fields = {**FAST, "floor": {"max_drop": 4}, "search.runtimes": ["onnxruntime"], "compress.steps": ["int8"]}
    fields |= {"compress.min_shrink": 1.01, "search.prefer": "size", "compress.library_default": False}
    report = pocketvit.fit(
        classify_recipe(write_classes(tmp_path / "d"), **fields), name="a", runs=str(tmp_path), quiet=True
    )
    int8 = next(row for row in report.rows if row.step == "int8")
    assert int8.metric >= 86
    assert int8.kept, int8.reason
    assert sum("kept in float" in name for name, _ in int8.ranking) >= 5
