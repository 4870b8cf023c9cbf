"""A tiny classifier, whole and cut in two, as artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketvit.export.artifact import create_artifact, make_golden, pixel_model_of
from pocketvit.export.formats import exporter
from pocketvit.export.split import halve, write_split
from pocketvit.models.trained import Trained
from pocketvit.spec.manifest import Licence
from tests.export.nets import cases, classifier

DEPTH = 3


def network(**vit: Any) -> Trained:
    return classifier({"depth": DEPTH, **vit})


def write_halves(folder: Path, cuts: tuple[int, ...] = (1, 2)) -> Path:
    trained, write = network(), exporter("onnx")
    golden, metric = make_golden(trained, cases("classify", 6), 6), "fine.top1"
    built = [write(pixel_model_of(trained), trained.preprocess.size, folder, "model")]
    create_artifact(trained, folder / "whole", name="whole", golden=golden, built=built, main_metric=metric)
    for after in cuts:
        cut, about = halve(trained, after, 8, golden.inputs), {"name": f"cut{after}", "version": "0.1.0"}
        given: dict[str, Any] = {"main_metric": metric, "licence": Licence(), **about}
        write_split(trained, folder / f"cut{after}", cut, golden, [write], **given)
    return folder
