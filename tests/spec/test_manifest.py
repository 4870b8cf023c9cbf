from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pocketvit.errors import VerificationError
from pocketvit.spec.artifact import read_artifact
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
    [
        ("schema_version", 2),
        ("name", "../up"),
        ("name", ""),
        ("version", "1.0"),
        ("task", "paint"),
        ("surprise", 1),
        ("files", "none"),
        ("inputs", [{"name": "x"}]),
    ],
)
def test_wrong_values_are_refused(document: dict, key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(document | {key: value})
    assert caught.value.errors()[0]["loc"][0] == key


def test_settings_of_the_task_are_checked_and_read_back(document: dict) -> None:
    assert Manifest.model_validate(document).config.label_smoothing == 0
    assert Manifest.model_validate(document | {"settings": {"label_smoothing": 0.1}}).config.label_smoothing == 0.1
    for wrong in ({"label_smoothing": 2}, {"loss_floor": 3.0}, {"nonsense": 1}):
        with pytest.raises(ValidationError) as caught:
            Manifest.model_validate(document | {"settings": wrong})
        assert caught.value.errors()[0]["loc"][0] == "settings"


def _bench(**changes: float) -> list[dict]:
    return [
        {
            "variant": "onnxruntime:fp32",
            "threads": 1,
            "p50_ms": 1.0,
            "p90_ms": 2.0,
            "runs": 3,
            "input_shape": [1],
            "includes": "all",
        }
        | changes
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_measurements_must_be_finite(document: dict, value: float) -> None:
    metric, variant = document["metrics"][0], document["variants"][0]
    Manifest.model_validate(document | {"benchmarks": _bench()})
    for changes in (
        {"metrics": [metric | {"value": value}]},
        {"variants": [variant | {"metrics": {"fine.top1": value}}]},
        {"benchmarks": _bench(p50_ms=value)},
        {"benchmarks": _bench(p90_ms=value)},
    ):
        with pytest.raises(ValidationError, match="finite"):
            Manifest.model_validate(document | changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(levels=[]), "at least one level"),
        (lambda d: d.pop("levels"), "at least one level"),
        (lambda d: d["levels"][0].update(labels=[]), "level coarse has no labels"),
        (lambda d: d["levels"][1].update(parents=None), "level fine: every class needs a parent in level coarse"),
        (lambda d: d["levels"][1].update(parents=[0, 0, 1]), "level fine: every class needs a parent"),
        (lambda d: d["levels"][1].update(parents=[0, 0, 1, 2]), "level fine: every class needs a parent"),
        (lambda d: d["levels"][1].update(parents=[0, 0, 1, -1]), "level fine: every class needs a parent"),
        (lambda d: d["outputs"][1].update(shape=[1, 5]), "output probs_fine has shape"),
        (lambda d: d["levels"][1].update(labels=list("abcde"), parents=[0, 0, 1, 1, 1]), "output probs_fine has shape"),
    ],
)
def test_levels_and_outputs_must_agree(
    document: dict, change: Callable[[dict], object], says: str, tmp_path: Path
) -> None:
    change(document)
    with pytest.raises(ValidationError, match=says):
        Manifest.model_validate(document)
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(VerificationError, match=says) as caught:
        read_artifact(tmp_path / "a")
    assert caught.value.exit_code == 4


def test_schema_states_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Manifest.model_fields)
    assert schema["additionalProperties"] is False
    assert {"name", "task", "preprocess", "inputs", "outputs", "files", "variants", "default", "main_metric"} <= set(
        schema["required"]
    )
