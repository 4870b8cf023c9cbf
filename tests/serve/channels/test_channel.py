from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import zipfile
from pathlib import Path

import pytest

from pocketvit.errors import DataError, PocketvitError, UsageError, VerificationError
from pocketvit.serve.channels.signing import MAX_DESCRIPTION_BYTES, Pack, new_key, opened
from pocketvit.serve.channels.watch import Limits
from pocketvit.spec.artifact import sha256
from tests.serve.updates import World, sign_by_hand, versions, whole
from tests.tiny import make_tiny_artifact

BAD = 0.9
"""Blur of a restorer that does not do what its goldens say."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def test_a_new_version_is_taken_and_the_one_before_is_kept(world: World) -> None:
    with world.open() as channel:
        assert (channel.current.version, channel.current.counter) == ("0.1.0", 0)
        with pytest.raises(DataError, match="no such folder"):
            channel.poll()
        for counter, version in enumerate(("0.2.0", "0.3.0", "0.4.0"), 1):
            assert world.publish(version).description.counter == counter
            assert channel.poll().switched
            assert channel.current == world.switched[-1]
            assert (channel.current.version, channel.current.counter) == (version, counter)
            assert whole(channel.current)
            assert channel.poll().detail == f"{version} runs already"
        assert versions(world) == ["2", "3"]
        assert opened(channel.current.description, [world.key]).description.counter == 3
        status = channel.status()
        assert (status["version"], status["highest"], status["previous"]) == ("0.4.0", 3, 2)
        assert json.dumps(status)
    assert len(world.switched) == 3
    with world.open() as channel:  # after a restart, without looking at the channel
        assert (channel.current.version, whole(channel.current)) == ("0.4.0", True)
    assert len(world.switched) == 3


def test_the_golden_check_runs_for_real_and_the_previous_version_stays(world: World) -> None:
    with world.open(check=None) as channel:
        world.publish("0.2.0")
        assert channel.poll().switched
        world.publish("0.3.0", BAD)
        with pytest.raises(VerificationError, match="differs from the trained model"):
            channel.poll()
        assert channel.current.version == "0.2.0"
        assert versions(world) == ["1"]
        refused = channel.poll()  # and it is not even fetched again
        assert not refused.switched
        assert "0.3.0 was refused before" in refused.detail
        world.publish("0.4.0")
        assert channel.poll().switched
    assert [current.version for current in world.switched] == ["0.2.0", "0.4.0"]


def test_a_description_by_a_foreign_key_is_refused(world: World) -> None:
    world.publish("0.2.0")
    new_key(world.folder / "foreign")
    sign_by_hand(world, world.folder / "foreign", counter=9)
    with world.open() as channel:
        with pytest.raises(VerificationError, match="no pinned key"):
            channel.poll()
        assert channel.status()["highest"] == 0
        assert (channel.current.version, world.switched) == ("0.1.0", [])


def test_a_changed_description_is_refused(world: World) -> None:
    world.publish("0.2.0")
    file = world.channel / "channel.json"
    file.write_bytes(file.read_bytes().replace(rb"\"counter\":1", rb"\"counter\":2"))
    with world.open() as channel, pytest.raises(VerificationError, match="no pinned key"):
        channel.poll()
    file.write_bytes(b"x" * (MAX_DESCRIPTION_BYTES + 1))
    with world.open() as channel, pytest.raises(DataError, match="more than 32768 bytes"):
        channel.poll()
    assert world.switched == []


def test_a_changed_or_truncated_pack_is_refused_and_taken_when_it_is_sound(world: World) -> None:
    report = world.publish("0.2.0")
    pack = world.channel / report.description.pack.file
    sound = pack.read_bytes()
    damaged = {
        "sha256 is not the one": sound[:-1] + bytes([sound[-1] ^ 1]),
        "breaks off after": sound[:1000],
        "has more than": sound + b"x",
    }
    with world.open() as channel:
        for words, content in damaged.items():
            pack.write_bytes(content)
            with pytest.raises(PocketvitError, match=words):
                channel.poll()
            assert channel.current.version == "0.1.0"
            assert versions(world) == []
            assert not (world.folder / "state" / "incoming.pvit").exists()
        pack.unlink()
        with pytest.raises(DataError, match="is not there"):
            channel.poll()
        os.mkfifo(pack)
        with pytest.raises(DataError, match="no regular file"):
            channel.poll()
        pack.unlink()
        pack.write_bytes(sound)
        assert channel.poll().switched


def test_downgrades_and_replays_are_refused_also_after_a_restart(world: World) -> None:
    world.publish("0.2.0")
    old = (world.channel / "channel.json").read_bytes()
    world.publish("0.3.0")
    newest = (world.channel / "channel.json").read_bytes()
    for _ in range(2):
        with world.open() as channel:
            (world.channel / "channel.json").write_bytes(newest)
            channel.poll()
            (world.channel / "channel.json").write_bytes(old)
            with pytest.raises(VerificationError, match=r"downgrade \(counter 1, but 2 was seen before\)"):
                channel.poll()
            assert channel.current.version == "0.3.0"
    assert len(world.switched) == 1


def test_a_counter_once_seen_counts_although_its_pack_never_came(world: World) -> None:
    """Nobody can hold the newest pack back and then offer the version before it."""
    world.publish("0.2.0")
    old = (world.channel / "channel.json").read_bytes()
    report = world.publish("0.3.0")
    newest = (world.channel / "channel.json").read_bytes()
    pack = world.channel / report.description.pack.file
    pack.rename(world.folder / "held back")
    with world.open() as channel, pytest.raises(DataError, match="is not there"):
        channel.poll()
    with world.open() as channel:
        (world.channel / "channel.json").write_bytes(old)
        with pytest.raises(VerificationError, match="downgrade"):
            channel.poll()
        (world.channel / "channel.json").write_bytes(newest)
        (world.folder / "held back").rename(pack)
        assert channel.poll().switched
        sign_by_hand(world, time="2026-01-01T00:00:00Z")
        with pytest.raises(VerificationError, match="stands for another description"):
            channel.poll()


def test_other_artifacts_of_the_same_publisher_are_refused(world: World) -> None:
    world.publish("0.2.0", name="other")
    with world.open() as channel, pytest.raises(VerificationError, match="is not tiny-restore"):
        channel.poll()
    shutil.rmtree(world.channel)
    make_tiny_artifact(world.folder / "sources" / "0.2.0-0.4-0", "classify", name="tiny-restore", version="0.2.0")
    world.publish("0.2.0")
    with world.open() as channel, pytest.raises(VerificationError, match="its task is classify, not restore"):
        channel.poll()
    assert world.switched == []


def test_what_is_signed_wrongly_is_refused(world: World) -> None:
    """A pack that is not the artifact that its description promises, though both are signed."""
    report = world.publish("0.2.0").description
    original = (world.channel / "channel.json").read_bytes()
    for number, (changes, words) in enumerate(
        (
            ({"manifest_sha256": "0" * 64}, "manifest is not the one that was signed"),
            ({"version": "0.9.0"}, "signed as tiny-restore 0.9.0"),
            ({"pack": report.pack.model_copy(update={"bytes": 2_000_000_000})}, "are allowed here"),
        )
    ):
        (world.channel / "channel.json").write_bytes(original)
        sign_by_hand(world, **{"counter": number + 2, **changes})
        with world.open(folder=world.folder / f"state{number}") as channel:
            with pytest.raises(VerificationError, match=words):
                channel.poll()
            assert channel.current.version == "0.1.0"


@pytest.mark.parametrize("member", ["../evil.txt", "/evil.txt", "model.onnx"])
def test_hostile_archives_are_refused_although_they_are_signed(world: World, member: str) -> None:
    pack = world.channel / world.publish("0.2.0").description.pack.file
    with zipfile.ZipFile(pack, "a") as archive:
        archive.writestr(member, b"evil")
    sign_by_hand(world, pack=Pack(file=pack.name, bytes=pack.stat().st_size, sha256=sha256(pack)))
    with world.open() as channel:
        with pytest.raises(VerificationError):
            channel.poll()
        assert "refused before" in channel.poll().detail
    assert not (world.folder / "evil.txt").exists()
    assert not (world.folder / "state" / "evil.txt").exists()


def test_rising_errors_bring_the_previous_version_back_and_it_is_not_taken_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(least_reports=10, error_rate=0.2)
    with world.open(limits=limits) as channel:
        for version in ("0.2.0", "0.3.0"):
            world.publish(version)
            channel.poll()
        before = world.switched[0]
        for ok in [True] * 40 + [False] * 10:
            channel.report(ok)
        assert channel.current.version == "0.3.0"  # a fifth is allowed
        channel.report(False, before)  # an answer that the version before has been busy with
        assert channel.current.version == "0.3.0"
        channel.report(False)
        assert channel.current == before == world.switched[-1]
        assert "11 of 51 answers failed" in caplog.text
        for _ in range(50):  # it has been proven before: no further
            channel.report(False)
        assert channel.current == before
        assert "11 of 51 answers failed" in channel.poll().detail
        assert versions(world) == ["1"]
    with world.open() as channel:
        assert channel.current.version == "0.2.0"
        assert not channel.poll().switched
        world.publish("0.3.0")  # the same model under a new counter
        assert "was refused before" in channel.poll().detail
        channel.forgive()
        assert channel.poll().switched
        assert channel.current.version == "0.3.0"


def test_the_first_version_goes_back_to_what_the_server_was_started_with(world: World) -> None:
    with world.open() as channel:
        with pytest.raises(UsageError, match="no version to roll back from"):
            channel.roll_back("for fun")
        world.publish("0.2.0")
        channel.poll()
        assert channel.roll_back("slow").version == "0.1.0"
        assert channel.current.path == world.folder / "base" == world.switched[-1].path


def test_many_threads_roll_back_once(world: World) -> None:
    with world.open() as channel:
        for version in ("0.2.0", "0.3.0"):
            world.publish(version)
            channel.poll()
        current = channel.current

        def fail() -> None:
            for _ in range(50):
                channel.report(False, current)

        threads = [threading.Thread(target=fail) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found.version for found in world.switched] == ["0.2.0", "0.3.0", "0.2.0"]


def test_a_version_whose_key_is_no_longer_pinned_is_not_run(world: World) -> None:
    world.publish("0.2.0")
    other = new_key(world.folder / "other")
    with world.open(keys=[other, world.key]) as channel:
        assert channel.poll().switched
    with world.open(keys=[other]) as channel:
        assert channel.current.version == "0.1.0"
        with pytest.raises(VerificationError, match="no pinned key"):
            channel.poll()


def test_the_same_model_under_a_new_counter_is_not_fetched(world: World) -> None:
    world.publish("0.2.0")
    with world.open() as channel:
        channel.poll()
        world.publish("0.2.0")
        assert not channel.poll().switched
        assert (channel.current.counter, len(world.switched)) == (2, 1)
    with world.open() as channel:
        assert (channel.current.counter, channel.current.version) == (2, "0.2.0")


def test_it_polls_by_itself_says_an_error_once_and_ends(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pocketvit")
    with world.open() as channel:
        channel.start(0.01)
        deadline = time.monotonic() + 60
        while channel.status()["error"] is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "no such folder" in channel.status()["error"]
        world.publish("0.2.0")
        while not world.switched and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert channel.current.version == "0.2.0"
    assert caplog.text.count("no such folder") == 1
    assert not any(thread.name == "channel" for thread in threading.enumerate())
    with pytest.raises(DataError, match="is closed"):
        channel.roll_back("too late")
