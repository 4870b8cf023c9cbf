"""What the OpenAPI description allows and what it does not, made by schemathesis: answers are as it says, never 500."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pocketvit.runtimes.model import load
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.options import Limits
from tests.tiny import make_tiny_artifact

schemathesis: Any = pytest.importorskip("schemathesis")
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
CASES = 8
SERVED = {"name": "tiny-classify", "version": "0.1.0", "task": "classify"}
"""What paths are filled with, so that half of the requests come to a model."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("openapi")
    models = [load(make_tiny_artifact(folder / task, task).path) for task in ("restore", "classify")]
    app = make_app(Models(map(Served.of, models)), Limits(workers=1))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def ask_often(operation: Any, mode: str) -> int:
    """Ask an operation with what the strategy makes, and check its answers; how many there were."""
    wanted = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    served = {name: value for name, value in SERVED.items() if f"{{{name}}}" in operation.path}
    paths = {"path_parameters": served} if mode == "POSITIVE" and served else {}
    seen: list[int] = []

    @hypothesis.given(case=operation.as_strategy(schemathesis.GenerationMode[mode], **paths))
    @hypothesis.settings(
        max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
    )
    def ask(case: Any) -> None:
        response = case.call()
        seen.append(response.status_code)
        case.validate_response(response, checks=wanted)

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:  # nothing that this operation takes can be wrong
        assert mode == "NEGATIVE"
    return len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_operation_answers_as_described(schema: Any, mode: str) -> None:
    operations = [result.ok() for result in schema.get_all_operations()]
    asked = {operation.label for operation in operations if ask_often(operation, mode)}
    with_body = {operation.label for operation in operations if operation.method.upper() == "POST"}
    assert asked == ({operation.label for operation in operations} if mode == "POSITIVE" else with_body)
    assert len(operations) >= 10
    assert len(with_body) == 3
