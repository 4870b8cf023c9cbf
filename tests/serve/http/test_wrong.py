"""What a client is told of a parameter that is wrong: plain words, and none of pydantic's."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from pocketvit.runtimes.model import load
from tests.serve.asking import app_of, ask
from tests.tiny import make_tiny_artifact


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return app_of(load(make_tiny_artifact(tmp_path_factory.mktemp("wrong") / "c", "classify").path))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top=0", "top must be at least 1, not '0'."),
        ("top=1001", "top must be at most 1000, not '1001'."),
        ("top=many", "top must be a whole number, not 'many'."),
        ("top=1.5", "top must be a whole number, not '1.5'."),
        ("top=" + "9" * 5000, "top must be a whole number, not '" + "9" * 40 + "'."),
        ("strength=x", "strength must be a number, not 'x'."),
        ("strength=nan", "strength must be at most 2, not 'nan'."),
        ("strength=2.5", "strength must be at most 2, not '2.5'."),
        ("format=gif", "format must be json, png or values, not 'gif'."),
        ("format=gif&top=0", "format must be json, png or values, not 'gif'; top must be at least 1, not '0'."),
    ],
)
def test_a_wrong_parameter_is_named_in_plain_words(app: FastAPI, query: str, words: str) -> None:
    answer = ask(app, "POST", f"/v1/classify?{query}", content=b"")
    assert (answer.status_code, answer.json()) == (400, {"error": words})
