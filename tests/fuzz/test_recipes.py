from __future__ import annotations

from tests.fuzz.recipes import run


def test_mutated_recipes_are_refused_in_words_or_can_be_built() -> None:
    ends = run(60, seed=0, seconds=5)  # a busy machine
    assert ends["usage"] > 10
    assert ends["valid"] > 3
