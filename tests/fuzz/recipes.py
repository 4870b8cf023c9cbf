"""Mutated recipes: each is refused with a usage or data error, or is a recipe whose model can be built.

``python -m tests.fuzz.recipes --count 500 --seed 0``
"""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from pocketvit.errors import DataError, UsageError
from pocketvit.models.build import architecture, build
from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import Recipe, load_recipe
from tests.fuzz.command import command

SECONDS = 1.0
BASE = {
    "data": {"layout": "classes", "val_share": 0.3, "sigma": [0, 50], "eval_sigma": [25]},
    "model": {
        "name": "vit_micro_patch16_224",
        "options": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "pool": "gap"},
    },
    "task": {"name": "classify", "label_smoothing": 0.1, "level_weights": [1.0]},
    "preprocess": {"size": [32, 32], "resize": "stretch", "mean": [0.5, 0.5, 0.5]},
    "train": {"epochs": 1, "lr": 0.001, "betas": [0.9, 0.99], "seed": 1, "minutes": 3, "ema": 0.9},
    "compress": {"steps": ["int8", {"bf16": {}}]},
    "budget": {"latency_ms": 30},
    "search": {"runtimes": ["onnxruntime"], "sizes": [32]},
    "target": {"threads": 2},
    "name": "fuzzed",
}
HUGE = [10**6, 10**12, 10**30, 1e300, -1, -(10**9), 0, 0.5, float("inf"), float("-inf"), float("nan"), 9**4000]
OTHER = [None, True, False, "", "yes", "33ms", "1e5", [], {}, [[]], [None], {"a": {"b": 1}}, [1, "a"], ["x"] * 300]
TEXTS = [
    "\u00b2",
    "cafe\u0301",
    "\u202e",
    "\0",
    "../../x",
    "timm:hf-hub:../../x",
    "x" * 5000,
    "\U0001f600",
    "a: [b",
    "-",
]
LINES = [
    "train: {epochs: 3}",
    "x: &x [1, 1, 1, 1, 1, 1, 1, 1]\ny: &y [*x, *x, *x, *x]\nname: [*y, *y, *y, *y]",
    "name: !!python/name:os.system",
    "- a",
    "budget: *nothing",
    "\tname: a",
    "train:\n  seed: 1\n  seed: 2",
    "? {a: b}\n: c",
    "deep: " + "[" * 3000,
    "name: &n again\nlicence_data: *n",
]


def places(document: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every mapping with every key of it, nested ones too."""
    found = [(document, key) for key in document]
    return found + [place for value in document.values() if isinstance(value, dict) for place in places(value)]


def mutated(rng: random.Random) -> str:
    """The text of a recipe with one to three things wrong, or unusual, in it."""
    document = copy.deepcopy(BASE)
    lines: list[str] = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        inside, key = rng.choice(places(document) or [(document, "name")])
        kind = rng.choice(["drop", "type", "huge", "text", "key", "entry", "line"])
        if kind == "drop":
            inside.pop(key, None)
        elif kind == "key":
            inside[rng.choice([key + "s", key.upper(), *TEXTS[:5], 7, None])] = inside.get(key)  # type: ignore[index]
        elif kind == "entry" and isinstance(inside.get(key), list):
            inside[key] = [*inside[key], rng.choice([*HUGE, *OTHER, *TEXTS])]
        elif kind == "line":
            lines.append(rng.choice(LINES))
        else:
            inside[key] = rng.choice({"huge": HUGE, "text": TEXTS}.get(kind, OTHER))
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=rng.random() < 0.5)
    return "\n".join([text, *lines])


def outcome(file: Path) -> str:
    """``usage``, ``data`` or ``valid``; any other exception is a defect and passes through."""
    try:
        recipe: Recipe = resolve_recipe(file, None, {}).recipe
        assert str(load_recipe(recipe.to_dict())) == str(recipe), "its written form is another"  # nan is not nan
        architecture(recipe.model.name)
        # What is built must not be larger than its recipe says: a fixed size stands for every one.
        build(recipe.model.name, (32, 32), recipe.model.options)
    except UsageError as error:
        return "usage" if len(str(error)) < 1000 + len(str(file)) else "endless error"
    except DataError:
        return "data"
    return "valid"


def run(count: int, seed: int, seconds: float = SECONDS) -> Counter[str]:
    """Try ``count`` recipes; how each ended.

    Raises:
        AssertionError: one ended otherwise, or took more than ``seconds`` of processor time; seed and text are named.
    """
    ends: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "r.yaml"
        for k in range(count):
            text = mutated(random.Random(f"{seed}-{k}"))
            file.write_text(text, encoding="utf-8")
            began = time.process_time()
            try:
                end = outcome(file)
                took = time.process_time() - began
                ends[end] += 1
                assert end != "endless error", "the error repeats the input"
                assert took < seconds, f"it took {took:.1f} s"
            except Exception as error:
                raise AssertionError(
                    f"recipe {k} of seed {seed}: {type(error).__name__}: {error}\n{text[:3000]}"
                ) from error
    return ends


if __name__ == "__main__":
    command(__doc__, lambda count, seed, _: dict(run(count, seed)), 500)
