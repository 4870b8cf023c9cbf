"""SIGKILL before every single step that changes the disk, in publishing, updating and rolling back."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from pocketvit.serve.channels.channel import Current
from pocketvit.serve.channels.signing import opened
from pocketvit.spec.artifact import sha256
from tests.serve.asking import server
from tests.serve.updates import World, answers_with, following, killed_at, whole, without_threads


def publish_is_whole(world: World) -> int:
    """Everything that the channel's description names is there as signed; returns its counter."""
    found = opened((world.channel / "channel.json").read_bytes(), [world.key]).description
    assert sha256(world.channel / found.pack.file) == found.pack.sha256
    return found.counter


@pytest.mark.slow
def test_killed_while_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if without_threads(request):
        return
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    world = World.make(tmp_path)
    world.publish("0.2.0")
    world.publish("0.3.0")  # so that the source is there: only the publishing is killed
    shutil.copytree(world.channel, tmp_path / "before")
    step, seen = 0, []
    while killed_at(step, lambda: world.publish("0.2.0")):
        seen.append(publish_is_whole(world))
        report = world.publish("0.3.0")
        assert publish_is_whole(world) == report.description.counter > 2
        shutil.rmtree(world.channel)
        shutil.copytree(tmp_path / "before", world.channel)
        step += 1
    assert step > 10
    assert seen == sorted(seen)  # not published yet, then published, with only temporary files left to delete
    assert set(seen) == {2, 3}


@pytest.mark.slow
def test_killed_while_updating_and_rolling_back(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if without_threads(request):
        return
    world = World.make(tmp_path)
    state, before = tmp_path / "state", tmp_path / "before"
    with world.open() as channel:
        world.publish("0.2.0")
        channel.poll()
    world.publish("0.3.0")
    shutil.copytree(state, before)

    def update_and_roll_back() -> None:
        with world.open() as channel:
            channel.poll()
            channel.roll_back("slow")

    def runs() -> tuple[str, bool]:
        """After a kill: a version that is whole and the newest that may be; then what polling leads to."""
        with world.open() as channel:
            assert whole(channel.current)
            found = channel.current.version
            refused = bool(channel.status()["refused"])
            channel.poll()
            assert channel.current.version == ("0.2.0" if refused else "0.3.0")
            assert whole(channel.current)
        names = {name.removesuffix(".json") for name in os.listdir(state / "versions")}
        assert len(names) == (1 if refused else 2)
        assert sorted(os.listdir(state)) == ["lock", "state.json", "versions"]
        return found, refused

    step, seen = 0, []
    while killed_at(step, update_and_roll_back):
        seen.append(runs())
        shutil.rmtree(state)
        shutil.copytree(before, state)
        step += 1
    assert step > 25
    # Each once, in this order: not updated yet, updated, rolled back.
    assert list(dict.fromkeys(seen)) == [("0.2.0", False), ("0.3.0", False), ("0.2.0", True)]


@pytest.mark.slow
def test_a_server_is_killed_at_any_time_of_a_real_update(tmp_path: Path) -> None:
    """With the golden check in its own process; what a kill leaves is a version that is whole."""
    world = World.make(tmp_path)
    world.publish("0.2.0")
    for after in (0.0, 0.4, 0.8, 1.5):
        with server(*following(world)) as one:
            time.sleep(after)
            one.process.send_signal(signal.SIGKILL)
            assert one.process.wait(60) == -signal.SIGKILL
        with world.open(folder=tmp_path / "states" / "tiny-restore") as channel:
            current: Current = channel.current
            assert whole(current)
            assert current.version in ("0.1.0", "0.2.0")
    with server(*following(world)) as one:
        assert answers_with(one.url, "0.2.0")
