"""Adapting learns what corrections teach, forgets nothing, or hands nothing over; and a kill leaves all as it was."""

from __future__ import annotations

import csv
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.errors import DataError, NothingFitsError, UsageError, VerificationError
from pocketvit.serve.channels.signing import opened, read_public
from pocketvit.serve.publish import publish
from pocketvit.spec.artifact import read_artifact, sha256
from tests.zygote import Zygote

NAMES = ("red", "green", "blue")
FAST: dict[str, Any] = {
    **{"search.timing_seconds": 0.05, "search.quiet_seconds": 0, "search.runtimes": ["onnxruntime"]},
    **{"compress.steps": ["fp16"], "compress.calibration_images": 4, "budget.latency_ms": 500},
    **{"train.epochs": 4, "train.lr": 0.003, "floor.max_drop": 12},
}


def mixed(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Yellow, cyan and magenta, which are to be red, green and blue: the trained model cannot know that."""
    image = rng.integers(0, 90, (40, 40, 3))
    image[:, :, [kind, (kind + 1) % 3]] += (110, 125)
    return image.astype(np.uint8)


def coloured(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Like the photos that the model was trained on."""
    image = rng.integers(0, 90, (40, 40, 3))
    image[:, :, kind] += 120
    return image.astype(np.uint8)


def collect(folder: Path, make: Any, count: int = 45, turn: int = 0, seed: int = 5) -> Path:
    """Corrections as the server writes them; ``turn`` gives each the label of another class."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    with (folder / "corrections.txt").open("w", newline="") as file:
        for i in range(count):
            Image.fromarray(make(i % 3, rng)).save(folder / "images" / f"{i}.png")
            csv.writer(file).writerow([f"images/{i}.png", NAMES[(i + turn) % 3]])
    return folder


@pytest.fixture(scope="module")
def shipped(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shipped") / "artifact"
    pocketvit.export(weights, out=str(out), name="colours", version="1.2.3", formats=("onnx",))
    return out


def adapt(weights: str, corrections: Path, shipped: Path, runs: Path, **options: Any) -> Any:
    given = {"artifact": str(shipped), "name": "a", "runs": str(runs), "quiet": True, **FAST, **options}
    return pocketvit.adapt(weights, str(corrections), **given)


@pytest.mark.slow
def test_it_is_refused_when_it_forgets(weights: str, shipped: Path, tmp_path: Path) -> None:
    wrong = collect(tmp_path / "c", coloured, turn=1)
    with pytest.raises(NothingFitsError, match="has forgotten: top1"):
        adapt(weights, wrong, shipped, tmp_path, rehearsal=0, **{"train.epochs": 8})
    assert not (tmp_path / "a" / "artifact").exists()


@pytest.mark.slow
def test_it_is_refused_when_corrections_teach_nothing(weights: str, shipped: Path, tmp_path: Path) -> None:
    known = collect(tmp_path / "c", coloured)
    with pytest.raises(VerificationError, match=r"not surely better: label\.top1 of 14"):
        adapt(weights, known, shipped, tmp_path, **{"train.epochs": 1})
    assert not (tmp_path / "a" / "artifact").exists()


def test_what_cannot_be_used_is_told_before_anything_is_trained(weights: str, shipped: Path, tmp_path: Path) -> None:
    few = collect(tmp_path / "few", mixed, count=9)
    (tmp_path / "empty").mkdir()
    unknown = collect(tmp_path / "unknown", mixed)
    (unknown / "corrections.txt").write_text("images/0.png,purple\n")
    for error, words, folder, options in (
        (DataError, "At least 10", few, {}),
        (DataError, "no corrections", tmp_path / "empty", {}),
        (DataError, "purple", unknown, {}),
        (UsageError, "shares", few, {"rehearsal": 1.0}),
        (UsageError, "go together", few, {"publish": str(tmp_path / "channel")}),
    ):
        with pytest.raises(error, match=words):
            adapt(weights, folder, shipped, tmp_path, **options)
    with pytest.raises(UsageError, match="checkpoint"):
        adapt(str(tmp_path / "empty"), few, shipped, tmp_path)
    assert not (tmp_path / "a").exists()


def test_original_photos_and_corrections_are_mixed_as_asked() -> None:
    from pocketvit.data.collections import Collection, Item
    from pocketvit.fit.adapting import REPEATS, _mixed

    def items(name: str, count: int) -> tuple[Item, ...]:
        return tuple(Item(Path(f"{name}{i}")) for i in range(count))

    old = Collection("old", "classify", "list", items("o", 2000), (), "train")
    new = Collection("new", "classify", "list", items("n", 10), (), "train")
    for rehearsal in (0.0, 0.5, 0.75, 0.9):
        mixed = _mixed(old, new, rehearsal, seed=0).items
        share = sum(item.path.name.startswith("o") for item in mixed) / len(mixed)
        assert share == pytest.approx(rehearsal, abs=0.001)
        assert mixed.count(new.items[3]) == REPEATS
        assert len({item for item in mixed if item.path.name.startswith("o")}) == round(share * len(mixed))
    few = Collection("old", "classify", "list", items("o", 60), (), "train")
    scarce = _mixed(few, new, 0.75, seed=0).items
    assert (len(scarce), scarce.count(new.items[3]), scarce.count(few.items[3])) == (320, REPEATS, 4)
    assert _mixed(old, new, 0.5, seed=0) == _mixed(old, new, 0.5, seed=0) != _mixed(old, new, 0.5, seed=1)


def test_what_decides_was_trained_on_by_nobody_also_where_it_lies_in_another_format(tmp_path: Path) -> None:
    from pocketvit.data.collections import Collection, Item, Splits
    from pocketvit.fit.adapting import _parted, _unknown
    from pocketvit.spec.images import read_image, write_image

    def items(name: str, count: int) -> tuple[Item, ...]:
        rng, files = np.random.default_rng(len(name)), [tmp_path / f"{name}{i}.jpg" for i in range(count)]
        for file in files:
            Image.fromarray(mixed(0, rng)).save(file)
        return tuple(Item(file) for file in files)

    def copied(item: Item) -> Item:
        write_image(tmp_path / f"copy-{item.path.stem}.png", read_image(item.path))
        return Item(tmp_path / f"copy-{item.path.stem}.png")

    train, val, test = (Collection(x, "classify", "list", items(x, 20), (), x) for x in ("train", "val", "test"))
    original, fresh = Splits(train, val, test), items("corrections", 40)
    seen = tuple(map(copied, train.items))
    given = replace(train, items=fresh + seen + (copied(val.items[0]), copied(test.items[0]), copied(test.items[1])))
    known = _unknown(given, original)
    assert known.items == fresh + seen
    assert known.notes == (
        "1 corrections are copies of validation photos and are left out.",
        "2 corrections are copies of test photos and are left out.",
    )
    parts = _parted(known, train, 0.3)
    assert len(parts.val.items) == 12
    assert set(parts.val.items) < set(fresh)
    assert set(parts.train.items) == set(known.items) - set(parts.val.items)
    assert "20 corrections are copies of training photos: none of them is kept out." in parts.notes
    for few in (seen, seen[:1], ()):
        with pytest.raises(DataError, match="0 would be kept out"):
            _parted(replace(known, items=few), train, 0.3)


@pytest.mark.parametrize(
    ("gained", "lost", "sure", "p"),
    [(4, 0, False, 1 / 16), (5, 0, False, 1 / 32), (6, 0, True, 1 / 64), (9, 2, False, 67 / 2048), (0, 0, False, 1)],
)
def test_few_gains_may_be_chance(gained: int, lost: int, sure: bool, p: float) -> None:
    equal = [100.0] * 12
    found = difference([0.0] * gained + [100.0] * lost + equal, [100.0] * gained + [0.0] * lost + equal)
    assert found.p == pytest.approx(p)
    assert found.sure is sure
    assert "sign test p" in found.line


def test_a_gain_that_is_no_number_is_none() -> None:
    assert not difference([0.0] * 12, [100.0] * 11 + [float("nan")]).sure


def difference(before: list[float], after: list[float]) -> Any:
    from pocketvit.fit.adapting import _difference
    from pocketvit.spec.manifest import LevelSpec

    levels = (LevelSpec(name="label", labels=list(NAMES)),)
    job: Any = SimpleNamespace(
        recipe=SimpleNamespace(task=SimpleNamespace(name="classify")), trained=SimpleNamespace(levels=levels)
    )
    return _difference(job, before, after)


def contents(*roots: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_kill_changes_nothing_that_was_there_and_the_next_call_hands_over_what_has_learnt(
    weights: str, shipped: Path, tmp_path: Path, zygote: Zygote
) -> None:
    folder, channel, key = collect(tmp_path / "c" / "colours", mixed).parent, tmp_path / "channel", tmp_path / "key"
    publish(new_key=str(key))
    publish(str(shipped), to=str(channel), key=[str(key)], check=False)
    options = {"artifact": str(shipped), "name": "a", "runs": str(tmp_path), "quiet": True, **FAST}
    options |= {"publish": str(channel), "key": [str(key)]}
    before = contents(shipped, channel)
    code = f"import pocketvit; pocketvit.adapt({weights!r}, {str(folder)!r}, **{options!r})"
    process = zygote.start(code, tmp_path / "log")
    while process.poll() is None and not list((tmp_path / "a").glob("candidate/.*artifact*")):
        time.sleep(0.005)
    assert process.kill() == -signal.SIGKILL, process.log.read_text()
    assert contents(shipped, channel) == before
    assert not (tmp_path / "a" / "artifact").exists()
    trained = (tmp_path / "a" / "best" / "model.safetensors").stat().st_mtime_ns
    report = pocketvit.adapt(weights, str(folder), **options)
    found = opened((channel / "channel.json").read_bytes(), [read_public(tmp_path / "key.pub")]).description
    assert (found.name, found.version, found.counter) == ("colours", "1.2.4", 2)
    assert sha256(channel / found.pack.file) == found.pack.sha256
    assert report.published == str(channel)
    lines = (tmp_path / "a" / "run.log").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["begins", "goes"]
    assert (tmp_path / "a" / "best" / "model.safetensors").stat().st_mtime_ns == trained
    with pytest.raises(UsageError, match="is finished"):
        pocketvit.adapt(weights, str(folder), **options)
    learnt(report)


def learnt(report: Any) -> None:
    """What was handed over knows the corrections and what it knew before, and says from what it was made."""
    assert (report.version, report.metric) == ("1.2.4", "label.top1")
    assert report.corrections.count >= 12
    assert report.corrections.before < 60 < report.corrections.after
    assert 0 < report.corrections.low <= report.corrections.gain <= report.corrections.high
    assert report.after >= report.before - 12
    manifest = read_artifact(report.artifact).manifest
    assert (manifest.name, manifest.version) == ("colours", "1.2.4")
    first = manifest.lineage[0]
    assert (first.step, first.stage, first.kept) == ("adapted", "model", True)
    assert first.settings["from"] == "colours 1.2.3"
    assert first.settings["rehearsal"] == pytest.approx(0.75, abs=0.01)
    assert len(first.settings["corrections"]) == 64
    assert manifest.training["adapted"]["kept_out"] == report.corrections.count
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert "kept out" in report.render()
    model = pocketvit.load(report.artifact)
    hits = [model(mixed(i % 3, np.random.default_rng(99 + i))).path == (NAMES[i % 3],) for i in range(30)]
    assert np.mean(hits) > 0.6
