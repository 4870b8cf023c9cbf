"""Updates in the page: what is signed and sound is taken while the camera runs, all else refused, and why is shown.

The channel is a stand-in that hands on signed descriptions as they are; the page is the one that checks them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image

from pocketvit.runtimes.model import load
from pocketvit.serve.channels.signing import new_key
from pocketvit.serve.http.served import Served
from pocketvit.serve.phone.routes import add_phone
from tests.serve.asking import app_of, server
from tests.serve.phone.app import channel_of
from tests.serve.updates import World, make_version, sign_by_hand
from tests.web import browser as web
from tests.web.artifacts import break_on_white

pytestmark = pytest.mark.slow


@dataclass
class Publisher:
    """A server of one model whose channel a test moves as it likes."""

    world: World
    app: FastAPI

    @classmethod
    def make(cls, folder: Path) -> Publisher:
        world = World.make(folder)
        app = app_of(load(folder / "base"))
        add_phone(app, web.DIST)
        app.state.services.update_keys = [world.key]
        return cls(world, app)

    def publish(self, version: str, blur: float = 0.4) -> Path:
        """Publish a version and serve it at once; its folder."""
        self.world.publish(version, blur)
        folder = self.world.folder / "sources" / f"{version}-{blur}-0"
        self.serve(folder)
        return folder

    def serve(self, folder: Path, description: bytes | None = None) -> None:
        """Serve an artifact with the channel's description, or with another one."""
        services = self.app.state.services
        served = Served.of(load(folder))
        services.models.replace(served.name, served)
        services.channels = {served.name: channel_of(folder, self.signed if description is None else description)}

    @property
    def signed(self) -> bytes:
        return (self.world.channel / "channel.json").read_bytes()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    web.need_browser()
    camera = web.write_y4m(tmp_path_factory.mktemp("camera") / "noisy.y4m", web.frames(), fps=5)
    with web.chromium(camera) as one:
        yield one


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.make(tmp_path)


def check(page: Any) -> None:
    """Ask the page to look for an update, and wait until it has."""
    page.evaluate("pocketvit.check()")


def runs(page: Any, version: str) -> dict[str, Any]:
    """What runs, which must be of this version and still answer."""
    model = web.status(page)["model"]
    assert model["version"] == version
    answered = web.status(page)["answered"]
    web.until(page, f"pocketvit.status().answered > {answered}")
    return model


def refused(page: Any, reason: str, keeps: str) -> None:
    check(page)
    assert reason in web.problem(page, "refused")
    runs(page, keeps)


def test_a_signed_update_is_taken_while_the_camera_runs_and_bad_ones_are_refused(
    chromium: Any, publisher: Publisher
) -> None:
    with web.in_thread(publisher.app) as url, web.phone(chromium, url, permissions=["camera"]) as page:
        web.ready(page)
        assert "Not signed" in page.inner_text("#model-signed")
        web.start_camera(page)
        first = publisher.publish("0.2.0")
        old = publisher.signed
        check(page)
        model = runs(page, "0.2.0")
        assert (model["counter"], model["keyId"]) == (1, publisher.world.key.id)
        assert "Signed by key" in page.inner_text("#model-signed")
        assert "Now running version 0.2.0." in page.inner_text("#status")
        second = publisher.publish("0.3.0")
        sound = (second / "model.onnx").read_bytes()
        (second / "model.onnx").write_bytes(bytes([*sound[:-1], sound[-1] ^ 1]))
        refused(page, "A file was changed on its way.", keeps="0.2.0")
        web.shot(page, "update-refused")
        (second / "model.onnx").write_bytes(sound)
        good = publisher.signed
        publisher.serve(second, good.replace(b"0.3.0", b"0.3.1"))
        refused(page, "No trusted key has signed it.", keeps="0.2.0")
        publisher.serve(first, old)  # the server went back to what runs here: nothing to refuse
        check(page)
        assert page.query_selector("[data-id=refused]") is None
        publisher.serve(second, b"")
        refused(page, "It is not signed, and what runs is.", keeps="0.2.0")
        publisher.serve(second, good)
        check(page)
        assert runs(page, "0.3.0")["counter"] == 2
        assert page.query_selector("[data-id=refused]") is None
        publisher.serve(first, old)
        refused(page, "It is older than what was seen before.", keeps="0.3.0")
        page.reload()
        assert web.ready(page)["version"] == "0.3.0"


def test_foreign_keys_and_names_and_wrong_answers_are_refused(chromium: Any, publisher: Publisher) -> None:
    with web.in_thread(publisher.app) as url, web.phone(chromium, url, permissions=["camera"]) as page:
        web.ready(page)
        web.start_camera(page)
        folder, stranger = publisher.world.folder, new_key(publisher.world.folder / "stranger")
        publisher.world.publish("0.2.0")
        good = publisher.signed
        sign_by_hand(publisher.world, folder / "stranger")
        publisher.serve(folder / "sources" / "0.2.0-0.4-0")
        publisher.app.state.services.update_keys.append(stranger)
        refused(page, "No trusted key has signed it.", keeps="0.1.0")  # pinned are those of the first contact
        assert stranger.id not in json.dumps(web.status(page))
        (publisher.world.channel / "channel.json").write_bytes(good)
        sign_by_hand(publisher.world, name="another", counter=9)
        publisher.serve(folder / "sources" / "0.2.0-0.4-0")
        refused(page, "It is another model.", keeps="0.1.0")
        (publisher.world.channel / "channel.json").write_bytes(good)
        publisher.publish("0.4.0", blur=0.9)
        refused(page, "It failed its golden check on this device.", keeps="0.1.0")
        assert "max_abs" in page.inner_text("[data-id=refused]")
        refused(page, "It has failed on this device before.", keeps="0.1.0")


def test_what_a_server_takes_from_its_channel_reaches_the_phone_by_itself(chromium: Any, tmp_path: Path) -> None:
    """Publisher, server and page, each for real: nobody presses anything."""
    world = World.make(tmp_path)
    channel = ("--updates.channel", world.channel, "--updates.key", tmp_path / "key.pub", "--updates.seconds", "0.3")
    channel += ("--updates.folder", tmp_path / "state")
    with (
        server(tmp_path / "base", "--phone", *channel) as one,
        web.phone(chromium, one.url, "?poll=1", permissions=["camera"]) as page,
    ):
        web.ready(page)
        assert web.status(page)["model"]["version"] == "0.1.0"
        web.start_camera(page)
        world.publish("0.2.0")
        web.until(page, "pocketvit.status().model.version === '0.2.0'")
        assert runs(page, "0.2.0")["keyId"] == world.key.id
        assert page.query_selector(".problem") is None


def test_a_new_version_whose_first_answers_fail_goes_and_the_one_before_comes_back(
    chromium: Any, publisher: Publisher, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 48), "white").save(tmp_path / "white.png")
    break_on_white(make_version(tmp_path / "sources" / "0.2.0-0.4-0", "0.2.0"))
    with web.in_thread(publisher.app) as url, web.phone(chromium, url, permissions=["camera"]) as page:
        web.ready(page)
        publisher.publish("0.2.0")
        check(page)
        assert web.status(page)["model"]["version"] == "0.2.0"
        for _ in range(2):
            page.set_input_files("#file", tmp_path / "white.png")
            assert "NaN" in web.problem(page, "failed")
            web.until(page, "!pocketvit.status().busy")
        page.set_input_files("#file", tmp_path / "white.png")
        web.until(page, "pocketvit.status().model.version === '0.1.0'")
        assert "Version 0.2.0 failed here; 0.1.0 is back." in page.inner_text("#status")
        web.start_camera(page)
        refused(page, "It has failed on this device before.", keeps="0.1.0")


def test_a_first_model_that_is_not_what_it_says_is_not_run(chromium: Any, tmp_path: Path) -> None:
    make_version(tmp_path / "base", "0.1.0")
    app = app_of(load(tmp_path / "base"))
    add_phone(app, web.DIST)
    content = (tmp_path / "base" / "model.onnx").read_bytes()
    (tmp_path / "base" / "model.onnx").write_bytes(content[:-1])
    with web.in_thread(app) as url, web.phone(chromium, url, locale="es-ES") as page:
        assert "Se rechazó el modelo" in web.problem(page, "refused")
        assert page.is_disabled("#camera")
        web.shot(page, "model-refused-spanish")
