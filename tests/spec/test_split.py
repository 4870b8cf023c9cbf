from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pocketvit.errors import UsageError
from pocketvit.spec.parsing import parse_manifest
from pocketvit.spec.split import Split, check_pair, check_whole
from tests.spec.test_features import split


def features(**changes: Any) -> dict[str, Any]:
    return {"name": "features", "shape": [1, 5, 7], "dtype": "float32", "meaning": "tokens", **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": features(shape=[1, 5])}, "not \\(1, tokens, width\\)"),
        ({"features": features(shape=[2, 5, 7])}, "not \\(1, tokens, width\\)"),
        ({"features": features(shape=[1, 0, 7])}, "not \\(1, tokens, width\\)"),
        ({"features": features(shape=[1, -1, 7])}, "not \\(1, tokens, width\\)"),
        ({"features": features(shape=[1, 1 << 20, 1 << 20])}, "not \\(1, tokens, width\\)"),
        ({"features": features(dtype="float16")}, "not float32"),
        ({"features": features(name="tokens")}, "not float32 'features'"),
        ({"id": "0" * 31}, "pattern"),
        ({"bits": 9}, "less than or equal to 8"),
        ({"part": "middle"}, "head"),
    ],
)
def test_what_a_manifest_may_say(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Split(**{**split().model_dump(), **changes})


def test_halves_are_told_from_wholes() -> None:
    check_whole("a", None)
    with pytest.raises(UsageError, match="a is the head of a split model: it gives features"):
        check_whole("a", split(part="head"))
    with pytest.raises(UsageError, match="takes the features of its head, not photos"):
        check_whole("a", split())


def test_only_a_head_and_its_own_tail_are_a_pair() -> None:
    check_pair(split(part="head"), split())
    for head, tail, says in (
        (split(), split(part="head"), "a tail and a head are no head and tail"),
        (None, split(), "a whole model and a tail"),
        (split(part="head"), split(id="f" * 32), r"split 00112233\) and this tail \(split ffffffff"),
        (split(part="head"), split(width=8), "not of one network and cut"),
    ):
        with pytest.raises(UsageError, match=says):
            check_pair(head, tail)


@pytest.mark.parametrize(
    ("half", "change", "says"),
    [
        ("head", lambda d: d["outputs"].append({**d["outputs"][0], "name": "more"}), "outputs of a head"),
        ("head", lambda d: d["levels"].append({"name": "fine", "labels": ["a"]}), "a head has no levels"),
        ("tail", lambda d: d["levels"].clear(), "needs at least one level"),
        ("tail", lambda d: d["inputs"][0].update(shape=[1, 4, 32]), "the inputs are features float32"),
        ("head", lambda d: d["inputs"][0].update(name="image"), "not pixels uint8"),
        ("head", lambda d: d["split"].update(part="tail"), "levels"),
        ("tail", lambda d: d["split"].update(more=1), "Extra inputs"),
    ],
)
def test_a_manifest_of_a_half_is_held_together(halves: Path, half: str, change: Any, says: str) -> None:
    document = json.loads((halves / "cut1" / half / "manifest.json").read_text())
    assert parse_manifest(json.dumps(document).encode()).split is not None
    change(document)
    with pytest.raises(ValueError, match=says):
        parse_manifest(json.dumps(document).encode())
