"""A micro ViT that several steps' tests start from; they copy what they change."""

from __future__ import annotations

import pytest

from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe
from tests.compress.training import teach


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Recipe]:
    return teach(tmp_path_factory.mktemp("taught"))
