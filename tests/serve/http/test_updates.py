"""A server that follows channels: what is loaded at the start, how versions change, and what counts as a failure."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import httpx
import pytest

from pocketvit import cli
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.runtimes.model import load
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Ran, Services
from pocketvit.serve.http.updates import Follower, close, follow, open_models
from pocketvit.serve.options import Limits, Updates
from tests.serve.asking import png, server
from tests.serve.updates import World, answers_with, following
from tests.tiny import make_tiny_artifact, noisy, photo


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def loaded(path: str) -> Served:
    return Served.of(load(path))


def follower(world: World, load: object = loaded) -> Follower:
    options = {"folder": world.folder / "state", "check": lambda folder: None}
    return Follower(str(world.folder / "base"), str(world.channel), [world.key], load, **options)  # type: ignore[arg-type]


def test_which_artifact_follows_which_channel() -> None:
    def of(*updates: str, names: tuple[str, ...] = ("one", "two")) -> dict[str, str]:
        return Updates(updates, ("key.pub",)).channel_of(names)

    assert of("one=/a", "two=https://b/?x=1") == {"one": "/a", "two": "https://b/?x=1"}
    assert of("https://b/?x=1", names=("one",)) == {"one": "https://b/?x=1"}
    for wrong, words in ((("/a",), "is not said to be of one of one, two"), (("one=/a", "one=/b"), "two channels")):
        with pytest.raises(UsageError, match=words):
            of(*wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel": ("/a",)}, "no public key"),
        ({"key": ("key.pub",)}, "updates.key goes with --updates.channel"),
        ({"folder": "x"}, "updates.folder goes with"),
        ({"channel": ("/a",), "key": ("k",), "seconds": 0.0}, "updates.seconds"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Updates(**options)  # type: ignore[arg-type]


def test_an_artifact_is_given_once_and_the_key_is_public(world: World, tmp_path: Path) -> None:
    base = str(tmp_path / "base")
    options = {"folder": str(tmp_path / "states")}
    with pytest.raises(UsageError, match="given 2 times"):
        open_models([base, base], loaded, Updates(("/a",), (str(tmp_path / "key.pub"),), **options))
    with pytest.raises(UsageError, match="private key"):
        open_models([base], loaded, Updates(("/a",), (str(tmp_path / "key"),), **options))
    channels = ("tiny-restore=https://a.test/x", "tiny-classify=https://b.test/x")
    other = str(make_tiny_artifact(tmp_path / "other", "classify").path)
    secret = {**options, "token_file": str(tmp_path / "token")}
    with pytest.raises(UsageError, match="would be sent to 2 servers"):
        open_models([base, other], loaded, Updates(channels, (str(tmp_path / "key.pub"),), **secret))
    command = ["serve", base, "--updates.channel", "/a", "--updates.folder", str(tmp_path), "--port", "0"]
    assert cli.main([*command, "--updates.key", str(tmp_path / "no.pub")]) == UsageError.exit_code


def test_others_stay_as_they_are_and_a_failed_start_leaves_no_lock(world: World, tmp_path: Path) -> None:
    other = make_tiny_artifact(tmp_path / "other", "classify").path
    name = load(str(tmp_path / "base")).manifest.name
    paths = (str(tmp_path / "key.pub"),), str(tmp_path / "states")
    wanted = Updates((f"{name}={world.channel}",), *paths)

    def broken(path: str) -> Served:
        if path == str(other):
            raise DataError("no memory.", "Buy some.")
        return loaded(path)

    artifacts = [str(tmp_path / "base"), str(other)]
    with pytest.raises(DataError):
        open_models(artifacts, broken, wanted)
    served, followers = open_models(artifacts, loaded, wanted)
    assert [one.task for one in served] == ["restore", "classify"]
    assert list(followers) == [name]
    close(followers)


def test_a_version_takes_the_place_and_failures_bring_the_one_before_back(world: World) -> None:
    one = follower(world)
    models = Models([one.served])
    services = Services(models, Limits())
    name = one.served.name
    base = one.served
    follow(services, {name: one}, Updates(("/a",), (str(world.folder / "key.pub"),), seconds=1000))
    assert list(services.channels) == [name]
    assert services.update_keys == [world.key]
    world.publish("0.2.0")
    one.channel.poll()
    new = models.current(name)
    assert (new.version, models.versions(name)) == ("0.2.0", ["0.2.0"])
    failed = VerificationError("NaN.", "")
    for _ in range(100):
        one.watch(Ran(base, 0.1, None, failed))  # a request that had begun before the change
        one.watch(Ran(new, 0.1, None, DataError("truncated.", "")))
        one.watch(Ran(new, 0.1, None, Refusal(503, "no answer in time.")))
    assert models.current(name) is new
    for _ in range(20):
        one.watch(Ran(new, 0.1, None, failed))
    assert models.current(name).version == "0.1.0"
    assert "20 of 20 answers failed" in next(iter(one.channel.status()["refused"].values()))
    one.channel.close()


def test_good_answers_outweigh_few_failures(world: World) -> None:
    one = follower(world)
    one._models = Models([one.served])
    world.publish("0.2.0")
    one.channel.poll()
    for count in range(200):
        one.watch(Ran(one.served, 0.1, None, ValueError() if count % 11 == 10 else None))
    assert one.served.version == "0.2.0"
    one.channel.close()


def test_a_version_that_cannot_be_loaded_after_a_restart_is_rolled_back(world: World) -> None:
    world.publish("0.2.0")
    with world.open() as channel:
        channel.poll()

    def fussy(path: str) -> Served:
        if "base" not in path:
            raise MemoryError
        return loaded(path)

    one = follower(world, fussy)
    assert one.served.version == "0.1.0"
    assert "could not be loaded" in next(iter(one.channel.status()["refused"].values()))
    one.channel.close()
    shutil.rmtree(world.folder / "state")
    with pytest.raises(MemoryError):
        follower(world, lambda path: fussy("elsewhere"))
    follower(world).channel.close()  # the folder is free


@pytest.mark.slow
def test_a_server_takes_a_signed_version_under_load_and_refuses_a_changed_one(world: World) -> None:
    body, stop, statuses, seen = png(noisy(photo(64, 64))), threading.Event(), set(), []

    def ask(url: str) -> None:
        while not stop.is_set():
            answer = httpx.post(f"{url}/v1/restore", content=body)
            statuses.add(answer.status_code)
            seen.append(answer.headers["x-model-version"])

    with server(*following(world)) as one:
        clients = [threading.Thread(target=ask, args=(one.url,)) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            world.publish("0.2.0")
            assert answers_with(one.url, "0.2.0")
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert statuses == {200}
        assert set(seen) == {"0.1.0", "0.2.0"}
        world.publish("0.3.0", blur=0.9)  # answers otherwise than its goldens say
        following_now = wait_for_error(one.url)
        assert following_now["version"] == "0.2.0"
        assert len(following_now["refused"]) == 1
        assert httpx.get(f"{one.url}/metrics").text.count("pocketvit_model_info{") == 1
        assert one.terminate()[0] == 0
    assert any("now tiny-restore 0.2.0" in line.get("text", "") for line in one.lines)
    assert one.other == []
    with server(*following(world)) as one:
        assert httpx.get(f"{one.url}/v1/models").json()[0]["version"] == "0.2.0"


def wait_for_error(url: str) -> dict[str, object]:
    for _ in range(1200):
        (found,) = httpx.get(f"{url}/v1/updates").json()
        if found["error"] or found["refused"]:
            return found
        threading.Event().wait(0.05)
    raise AssertionError("nothing was refused")
