from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pocketvit
from pocketvit.cli import main
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.serve.channels.signing import new_key, opened, read_private, read_public, sign
from pocketvit.serve.channels.store import hold
from pocketvit.spec.artifact import sha256
from tests.serve.updates import World, make_version, serving


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def publish(world: World, **options: object) -> object:
    given = {"to": str(world.channel), "key": [str(world.folder / "key")], "check": False, "again": True} | options
    return pocketvit.publish(str(world.folder / "base"), **given)


def test_the_command_line_signs_checks_and_publishes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["publish", str(world.folder / "base"), "--to", str(world.channel), "--key", str(world.folder / "key")]
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["version"], found["counter"]) == ("tiny-restore", "0.1.0", 1)
    assert found["key_ids"] == [read_public(world.folder / "key.pub").id]
    pack = world.channel / found["pack"]["file"]
    assert (found["pack"]["sha256"], found["pack"]["bytes"]) == (sha256(pack), pack.stat().st_size)
    assert found["manifest_sha256"] == sha256(world.folder / "base" / "manifest.json")
    signed = opened((world.channel / "channel.json").read_bytes(), [world.key])
    assert signed.description.model_dump().items() <= found.items()
    assert pocketvit.load(pack).manifest.version == "0.1.0"
    assert main([*args, "--no_check", "--again"]) == 0
    assert "counter 2, signed by" in capsys.readouterr().out


def test_what_is_the_newest_already_is_not_published_again(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(world)
    before = {name: (world.channel / name).read_bytes() for name in os.listdir(world.channel)}
    monkeypatch.setattr("pocketvit.serve.publish._check", None)  # what is not published is not checked either
    args = ["publish", str(world.folder / "base"), "--to", str(world.channel), "--key", str(world.folder / "key")]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "tiny-restore 0.1.0 with this very content is the newest there, as counter 1" in said
    assert "Nothing was published; --again" in said
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["published"], found["counter"]) == (False, 1)
    assert {name: (world.channel / name).read_bytes() for name in os.listdir(world.channel)} == before
    assert publish(world, again=False, counter=5).description.counter == 5  # who states a number means it
    new_key(world.folder / "new")
    both = [str(world.folder / "key"), str(world.folder / "new")]
    assert publish(world, again=False, key=both).description.counter == 6  # another set of signatures
    assert not publish(world, again=False, key=both[::-1]).published
    assert publish(world, again=False, key=both[1:]).description.counter == 7
    make_version(world.folder / "next", "0.2.0")
    found = pocketvit.publish(str(world.folder / "next"), to=str(world.channel), key=both[1:], check=False)
    assert (found.published, found.description.counter) == (True, 8)


def test_a_wrong_model_is_not_published_unless_the_check_is_left_out(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version(world.folder / "wrong", "0.2.0", 0.9)
    args = ["publish", str(world.folder / "wrong"), "--to", str(world.channel), "--key", str(world.folder / "key")]
    assert main(args) == 4
    what, todo = capsys.readouterr().err.splitlines()[-2:]
    assert "differs from the trained model" in what
    assert "Nothing was published" in todo
    assert not world.channel.exists()
    (world.folder / "base" / "card.md").write_text("# changed\n")
    with pytest.raises(VerificationError, match="card"):
        publish(world)
    assert not world.channel.exists()


def test_older_versions_are_kept(world: World) -> None:
    packs = [world.publish(version).description.pack.file for version in ("0.2.0", "0.3.0")]
    again = world.publish("0.2.0").description
    assert (again.pack.file, again.counter) == (packs[0], 3)
    kept = ["channel-1.json", "channel-2.json", "channel-3.json", "channel.json"]
    assert sorted(name for name in os.listdir(world.channel) if name != ".lock") == sorted([*kept, *packs])
    for number, version in ((1, "0.2.0"), (2, "0.3.0"), (3, "0.2.0")):
        found = opened((world.channel / f"channel-{number}.json").read_bytes(), [world.key]).description
        assert (found.counter, found.version) == (number, version)
        assert sha256(world.channel / found.pack.file) == found.pack.sha256


def test_a_key_is_exchanged_while_both_sign(world: World) -> None:
    new = new_key(world.folder / "new")
    both = [str(world.folder / "key"), str(world.folder / "new")]
    publish(world)
    publish(world, key=both)
    content = (world.channel / "channel.json").read_bytes()
    assert {opened(content, [key]).description.counter for key in (world.key, new)} == {2}
    publish(world, key=both[1:])
    with pytest.raises(VerificationError):
        opened((world.channel / "channel.json").read_bytes(), [world.key])
    with pytest.raises(UsageError, match="no pinned key") as caught:
        publish(world)
    assert "--counter" in caught.value.todo
    assert publish(world, counter=9).description.counter == 9
    with pytest.raises(UsageError, match="given twice"):
        publish(world, key=[both[0], both[0]])


def test_counters_rise_whatever_lies_there(world: World) -> None:
    publish(world)
    publish(world)
    (world.channel / "channel.json").write_bytes((world.channel / "channel-1.json").read_bytes())
    assert publish(world).description.counter == 3
    for wrong, words in ((3, "not above 3|published before"), (2, "published before|not above"), (0, "counter is 0")):
        with pytest.raises(UsageError, match=words):
            publish(world, counter=wrong)
    with pytest.raises(UsageError, match="not above"):
        publish(world, counter=2**53)
    (world.channel / "channel.json").unlink()
    assert publish(world).description.counter == 4
    found = opened((world.channel / "channel.json").read_bytes(), [world.key]).description
    most = found.model_copy(update={"counter": 2**53 - 1})
    (world.channel / "channel.json").write_bytes(sign(most, [read_private(world.folder / "key")]))
    with pytest.raises(UsageError, match="not above"):
        publish(world)


def test_a_channel_holds_one_artifact(world: World) -> None:
    publish(world)
    make_version(world.folder / "other", "0.1.0", name="other")
    with pytest.raises(UsageError, match="the channel of tiny-restore, not of other"):
        pocketvit.publish(
            str(world.folder / "other"), to=str(world.channel), key=[str(world.folder / "key")], check=False
        )


def test_one_publication_at_a_time(world: World) -> None:
    publish(world)
    held = hold(world.channel / ".lock", UsageError("", ""))
    assert held is not None
    with held, pytest.raises(UsageError, match="somebody else is publishing"):
        publish(world)
    assert publish(world).description.counter == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["base"], "--to is missing"),
        (["--to", "channel"], "ARTIFACT is missing"),
        (["base", "--to", "channel"], "--key is missing"),
        (["base", "--new-key", "k"], "makes a key and publishes nothing"),
        (["base", "--to", "channel", "--key", "missing"], "missing: cannot be read"),
        (["base", "--to", "channel", "--key", "key.pub"], "key.pub: "),
        (["base", "--to", "ftp://example.org/x", "--key", "key"], "ftp is no way to a channel"),
        (["base", "--to", "https://example.org/x?a=b", "--key", "key"], "no usable address"),
        (["base", "--to", "https://me:secret@example.org/x", "--key", "key"], "no usable address"),
        (["base", "--to", "http://[::1", "--key", "key"], "no usable address"),
        (["base", "--to", "http://example.org/x", "--key", "key", "--token-file", "token"], "sent unencrypted"),
        (["base", "--to", "https://example.org/x", "--key", "key", "--token-file", "empty"], "holds no token"),
        (["base", "--to", "https://example.org/x", "--key", "key", "--token-file", "none"], "token cannot be read"),
        (["nothing", "--to", "channel", "--key", "key"], "no artifact there"),
    ],
)
def test_mistakes_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    monkeypatch.chdir(world.folder)
    Path("token").write_text("secret\n")
    Path("empty").write_text("\n")
    assert main(["publish", *args]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert words in lines[-2]
    assert not world.channel.exists()


def test_a_folder_that_cannot_be_written_is_named(world: World) -> None:
    (world.folder / "file").write_text("mine")
    with pytest.raises(DataError, match="file"):
        publish(world, to=str(world.folder / "file"))
    assert (world.folder / "file").read_text() == "mine"


def test_over_http_with_a_token(world: World) -> None:
    (world.folder / "token").write_text("secret\n")
    token = {"token_file": str(world.folder / "token")}
    with serving(world.folder / "www", token="secret") as server:
        report = publish(world, to=server.url, **token)
        assert report.description.counter == 1
        assert publish(world, to=server.url, **token).description.counter == 2
        names = sorted(os.listdir(server.root))
        assert names == ["channel-1.json", "channel-2.json", "channel.json", report.description.pack.file]
        puts = [Path(path).name for method, path, _ in server.seen if method == "PUT"]
        pack = report.description.pack.file
        assert puts == [pack, "channel-1.json", "channel.json", pack, "channel-2.json", "channel.json"]
        with world.open(server.url, token="secret") as channel:
            assert channel.poll().switched
            assert channel.current.counter == 2
        with pytest.raises(DataError, match="answers 401") as caught:
            publish(world, to=server.url)
        assert "--token-file" in caught.value.todo


def test_what_a_killed_upload_left_is_no_obstacle(world: World) -> None:
    with serving(world.folder / "www") as server:
        publish(world, to=server.url)
        (server.root / "channel-2.json").write_text("the upload ended here")
        assert publish(world, to=server.url).description.counter == 3


def test_a_server_that_takes_no_files_is_named(world: World) -> None:
    with serving(world.folder / "www") as server:
        server.root.joinpath("channel-1.json").mkdir()  # 500 or 412: it is there and no file
        with pytest.raises((DataError, UsageError), match="channel-1"):
            publish(world, to=server.url)
        assert not (server.root / "channel.json").exists()
    with pytest.raises(DataError, match="cannot be reached"):
        publish(world, to=server.url)


def test_publish_imports_no_engine_and_no_torch() -> None:
    code = "import sys; import pocketvit.serve.publish, pocketvit.serve.channels.channel; "
    code += "print([m for m in ('torch', 'onnxruntime', 'openvino', 'cryptography') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"
