"""What fits in tests start from: photos of three classes, and a micro ViT that was trained on them once."""

from __future__ import annotations

from pathlib import Path

import pytest

import pocketvit

from ..train.helpers import classify_recipe, write_classes


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = tmp_path_factory.mktemp("runs")
    recipe = classify_recipe(data, **{"train.epochs": 6})
    pocketvit.train(recipe, name="t", runs=str(runs), quiet=True)
    return str(runs / "t")
