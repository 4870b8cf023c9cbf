"""The phone's routes: headers and types, what is listed, what is not handed out, and who needs the token."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from fastapi import FastAPI

from pocketvit.serve.channels.signing import new_key
from pocketvit.serve.phone.routes import is_public
from tests.serve.asking import ask
from tests.serve.phone.app import FILES, channel_of, phone_app
from tests.tiny import make_tiny_artifact

TOKEN = "a-token-of-enough-length"
ISOLATED = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("phone") / "model").path


@pytest.fixture(scope="module")
def app(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return phone_app(tmp_path_factory.mktemp("app"), artifact)


@pytest.mark.parametrize(
    ("path", "kind", "kept"),
    [
        ("", "text/html; charset=utf-8", "no-cache"),
        ("index.html", "text/html; charset=utf-8", "no-cache"),
        ("sw.js", "text/javascript; charset=utf-8", "no-cache"),
        ("manifest.webmanifest", "application/manifest+json", "no-cache"),
        ("assets/main-a1b2.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("assets/engine-a1b2.mjs", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("assets/engine-a1b2.wasm", "application/wasm", "public, max-age=31536000, immutable"),
        ("icons/icon.png", "image/png", "no-cache"),
    ],
)
def test_files_of_the_app_have_their_type_and_what_threads_need(app: FastAPI, path: str, kind: str, kept: str) -> None:
    answer = ask(app, "GET", f"/phone/{path}")
    assert answer.status_code == 200
    assert answer.text == FILES[path or "index.html"]
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == kept
    assert ISOLATED.items() <= dict(answer.headers).items()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "'wasm-unsafe-eval'" in policy
    assert "unsafe-inline" not in policy


def test_without_the_slash_it_leads_to_the_page(app: FastAPI) -> None:
    answer = ask(app, "GET", "/phone")
    assert (answer.status_code, answer.headers["location"]) == (308, "/phone/")


def test_config_says_what_there_is(app: FastAPI, artifact: Path) -> None:
    answer = ask(app, "GET", "/phone/config.json")
    document, manifest = answer.json(), (artifact / "manifest.json").read_bytes()
    assert document["keys"] == []
    (model,) = document["models"]
    assert model["task"] == "restore"
    assert model["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert model["description"] is None
    assert model["bytes"] == sum(f.stat().st_size for f in artifact.iterdir() if f.name != "manifest.json")
    assert ISOLATED.items() <= dict(answer.headers).items()
    assert answer.headers["cache-control"] == "no-cache"


def test_files_are_those_of_the_manifest_and_no_others(app: FastAPI, artifact: Path) -> None:
    (artifact / "stray.txt").write_text("not listed")
    listed = ask(app, "GET", "/phone/config.json").json()["models"][0]
    name, version = listed["name"], listed["version"]
    for file in ("manifest.json", "model.onnx", "golden.npz"):
        answer = ask(app, "GET", f"/phone/models/{name}/{version}/files/{file}")
        assert answer.content == (artifact / file).read_bytes()
        assert answer.headers["content-length"] == str((artifact / file).stat().st_size)
    for wrong in (
        "stray.txt",
        "../model/model.onnx",
        "%2e%2e/secret",
        "..%2f..%2fetc/passwd",
        "/etc/passwd",
        "",
        "a%00b",
    ):
        assert ask(app, "GET", f"/phone/models/{name}/{version}/files/{wrong}").status_code == 404
    assert ask(app, "GET", f"/phone/models/{name}/9.9.9/files/model.onnx").status_code == 404
    assert ask(app, "GET", f"/phone/models/other/{version}/files/model.onnx").status_code == 404
    (artifact / "stray.txt").unlink()


@pytest.mark.parametrize(
    "path", ["notes.map", "../pyproject.toml", "%2e%2e/x", "assets/", "assets", "nothing.js", "a%00b"]
)
def test_nothing_else_of_the_disk_is_sent(app: FastAPI, path: str) -> None:
    assert ask(app, "GET", f"/phone/{path}").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(app: FastAPI, method: str) -> None:
    assert ask(app, method, "/phone/config.json", content=b"x").status_code == 405


def test_a_file_that_is_gone_is_no_error_of_the_server(artifact: Path, tmp_path: Path) -> None:
    app = phone_app(tmp_path, artifact)
    (tmp_path / "sw.js").unlink()
    assert ask(app, "GET", "/phone/sw.js").status_code == 404


def test_a_model_of_a_channel_has_its_description(artifact: Path, tmp_path: Path) -> None:
    app = phone_app(tmp_path, artifact)
    services = app.state.services
    name = services.models.names()[0]
    assert ask(app, "GET", f"/phone/models/{name}/channel.json").status_code == 404
    key = new_key(tmp_path / "key")
    services.channels, services.update_keys = {name: channel_of(artifact, b'{"payload": "x"}\n')}, [key]
    document = ask(app, "GET", "/phone/config.json").json()
    assert (document["keys"], document["models"][0]["description"]) == (
        [(tmp_path / "key.pub").read_text()],
        '{"payload": "x"}\n',
    )
    assert ask(app, "GET", f"/phone/models/{name}/channel.json").content == b'{"payload": "x"}\n'
    for other in (channel_of(artifact, b""), channel_of(tmp_path, b"{}")):
        services.channels = {name: other}
        assert ask(app, "GET", f"/phone/models/{name}/channel.json").status_code == 404
    assert ask(app, "GET", "/phone/models/other/channel.json").status_code == 404


def test_the_app_needs_no_token_and_all_else_does(artifact: Path, tmp_path: Path) -> None:
    app = phone_app(tmp_path, artifact, token=TOKEN)
    for path in ("/phone", "/phone/", "/phone/sw.js", "/phone/assets/main-a1b2.js"):
        assert ask(app, "GET", path).status_code in (200, 308)
    name = app.state.services.models.names()[0]
    for path in ("/phone/config.json", f"/phone/models/{name}/channel.json", "/v2", "/docs", "/phonebook"):
        assert ask(app, "GET", path).status_code == 401
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(app, "GET", "/phone/config.json", headers=known).status_code == 200


def test_what_is_public() -> None:
    assert all(is_public(path) for path in ("/phone", "/phone/", "/phone/sw.js", "/phone/assets/a.js"))
    private = ("/", "/v2", "/phones", "/phone/config.json", "/phone/models/a/channel.json", "/v1/phone/")
    assert not any(is_public(path) for path in private)
