from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pocketvit.spec.manifest import Manifest, json_schema
from tests.tiny import make_tiny_artifact


@pytest.fixture
def document(tmp_path: Path) -> dict:
    return json.loads((make_tiny_artifact(tmp_path / "a", "classify").path / "manifest.json").read_text())


def test_round_trip(document: dict) -> None:
    manifest = Manifest.model_validate(document)
    assert json.loads(manifest.model_dump_json()) == document
    assert manifest.levels[1].parents == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema_version", 2), ("name", "../up"), ("name", ""), ("version", "1.0"), ("task", "paint"), ("surprise", 1), ("files", "none"), ("inputs", [{"name": "x"}])],
)
def test_wrong_values_are_refused(document: dict, key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(document | {key: value})
    assert caught.value.errors()[0]["loc"][0] == key


def test_schema_states_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Manifest.model_fields)
    assert schema["additionalProperties"] is False
    assert {"name", "task", "preprocess", "inputs", "outputs", "files", "variants", "default", "main_metric"} <= set(schema["required"])
