"""What a receiver does where its own disk is damaged or full, or its models do not load."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.serve.channels.channel import Current
from pocketvit.spec import artifact as artifact_module
from tests.serve.updates import World, make_version, versions, whole


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def test_a_version_that_does_not_load_leaves_what_runs(world: World) -> None:
    def refuse(current: Current) -> None:
        if current.version == "0.2.0":
            raise VerificationError("it does not load.", "")
        if current.version == "0.3.0" and not world.switched:
            world.switched.append(current)
            raise MemoryError

    world.publish("0.2.0")
    with world.open(switch=refuse) as channel:
        with pytest.raises(VerificationError, match="does not load"):
            channel.poll()
        assert (channel.current.version, versions(world)) == ("0.1.0", [])
        assert "does not load" in channel.poll().detail
        world.publish("0.3.0")
        with pytest.raises(MemoryError):
            channel.poll()
        assert channel.current.version == "0.1.0"
        assert channel.poll().switched  # that may be better at another time


def test_where_the_previous_version_is_lost_too_the_first_one_comes_back(world: World) -> None:
    with world.open() as channel:
        for version in ("0.2.0", "0.3.0"):
            world.publish(version)
            channel.poll()
        (world.switched[0].path / "model.onnx").write_bytes(b"damaged")
        assert channel.roll_back("slow").version == "0.1.0"


@pytest.mark.parametrize("damage", ["changed", "missing", "description", "manifest"])
def test_a_version_damaged_on_disk_is_not_run_and_fetched_again(world: World, damage: str) -> None:
    world.publish("0.2.0")
    with world.open() as channel:
        channel.poll()
        path = channel.current.path
    if damage == "changed":
        content = (path / "model.onnx").read_bytes()
        (path / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        shutil.rmtree(path)
    elif damage == "manifest":
        (path / "manifest.json").write_text((path / "manifest.json").read_text() + " ")
    else:
        path.with_name(f"{path.name}.json").unlink()
    with world.open() as channel:
        assert (channel.current.version, channel.current.counter) == ("0.1.0", 0)
        assert channel.poll().switched
        assert (channel.current.version, whole(channel.current)) == ("0.2.0", True)


def test_one_process_at_a_time_and_one_artifact_for_each_folder(world: World) -> None:
    with world.open() as channel:
        with pytest.raises(UsageError, match="in use by another process"):
            world.open()
        world.publish("0.2.0")
        channel.poll()
    make_version(world.folder / "second", "0.1.0", name="second")
    with pytest.raises(UsageError, match="holds versions of tiny-restore, not of second"):
        world.open(base=str(world.folder / "second"))
    with pytest.raises(UsageError, match="no public key"):
        world.open(keys=[])
    (world.folder / "state" / "state.json").write_text('{"name": "tiny-restore", "highest": "many"}')
    with pytest.raises(VerificationError, match="it is damaged") as caught:
        world.open()
    assert "begin anew" in caught.value.todo


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 300, 1000, 100_000])
def test_a_full_disk_leaves_what_runs(world: World, size: int) -> None:
    world.publish("0.2.0")
    with world.open() as channel:
        channel.poll()
        world.publish("0.3.0")
        with full_disk(size), pytest.raises(DataError, match="cannot be written"):
            channel.poll()
        assert (channel.current.version, versions(world)) == ("0.2.0", ["1"])
        assert not (world.folder / "state" / "incoming.pvit").exists()
        assert channel.poll().switched
    assert [current.version for current in world.switched][-1] == "0.3.0"


def test_a_state_that_cannot_be_written_takes_the_switch_back(world: World) -> None:
    def fill(current: Current) -> None:
        world.switched.append(current)
        if current.version == "0.3.0" and len(world.switched) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with world.open(switch=fill) as channel:
        world.publish("0.2.0")
        channel.poll()
        world.publish("0.3.0")
        with full_disk(10_000_000), pytest.raises(DataError, match=r"state\.json: cannot be written"):
            channel.poll()
        assert [current.version for current in world.switched] == ["0.2.0", "0.3.0", "0.2.0"]
        assert channel.current.version == "0.2.0"
        assert channel.poll().switched


def test_a_roll_back_on_a_full_disk_still_happens(world: World) -> None:
    with world.open() as channel:
        for version in ("0.2.0", "0.3.0"):
            world.publish(version)
            channel.poll()
        with full_disk(10):
            for _ in range(20):
                channel.report(False)
        assert channel.current.version == world.switched[-1].version == "0.2.0"
        assert "was refused before" in channel.poll().detail


def test_a_roll_back_while_a_newer_version_is_being_proven_takes_nothing_from_it(world: World) -> None:
    def check(folder: Path) -> None:
        if "0003-" in folder.name:
            channel.roll_back("slow")

    with world.open(check=check) as channel:
        for version in ("0.2.0", "0.3.0", "0.4.0"):
            world.publish(version)
            assert channel.poll().switched
        assert [current.version for current in world.switched] == ["0.2.0", "0.3.0", "0.2.0", "0.4.0"]
        assert whole(channel.current)
        assert versions(world) == ["1", "3"]


def test_what_this_machine_is_to_blame_for_is_not_held_against_a_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    world.publish("0.2.0")
    with world.open() as channel:
        with monkeypatch.context() as patch:
            patch.setattr(artifact_module.zipfile, "ZipFile", broken)
            with pytest.raises(VerificationError, match="Too many open files"):
                channel.poll()
        assert channel.poll().switched
