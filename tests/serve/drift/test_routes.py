"""The added addresses answer as the OpenAPI description says, whatever is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocketvit.runtimes.model import load
from pocketvit.serve.drift.start import watching
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Limits
from pocketvit.serve.options import Watch
from tests.serve.http.test_openapi import ask_often
from tests.tiny import make_tiny_artifact

schemathesis: Any = pytest.importorskip("schemathesis")
OURS = {"GET /v1/drift", "GET /v1/drift/page", "POST /v1/feedback"}


@pytest.mark.slow
def test_every_operation_answers_as_described(tmp_path: Path) -> None:
    models = Models([Served.of(load(make_tiny_artifact(tmp_path / "a", "classify").path))])
    with watching(models, Watch(str(tmp_path / "watch")), str(tmp_path / "kept")) as extras:
        app = make_app(models, Limits(workers=1), routers=extras.routers)
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        operations = {result.ok().label: result.ok() for result in schema.get_all_operations()}
        assert set(operations) >= OURS
        for label in OURS:
            assert ask_often(operations[label], "POSITIVE")
        assert ask_often(operations["POST /v1/feedback"], "NEGATIVE")
