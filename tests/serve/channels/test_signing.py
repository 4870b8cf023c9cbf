from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pocketvit.cli import main
from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.serve.channels.signing import (
    PREFIX,
    Description,
    Pack,
    PrivateKey,
    PublicKey,
    new_key,
    opened,
    read_private,
    read_public,
    sign,
)

HASH = "0" * 64
DESCRIPTION = Description(
    name="tiny",
    version="1.2.3",
    counter=7,
    pack=Pack(file="tiny.pvit", bytes=10, sha256=HASH),
    manifest_sha256=HASH,
    time="2026-01-02T03:04:05Z",
)


def fixed_key() -> PrivateKey:
    """The secret key of RFC 8032, section 7.1, test 1."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    return PrivateKey(key, PublicKey(key.public_key().public_bytes_raw()))


def test_the_signature_is_ed25519_over_prefix_and_payload_and_does_not_change() -> None:
    """What docs/updates.md promises to readers in other languages, with the public key that the RFC states."""
    key = fixed_key()
    assert key.public.raw.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    document = json.loads(sign(DESCRIPTION, [key]))
    assert document["payload"].startswith('{"schema_version":1,"name":"tiny","version":"1.2.3","counter":7,')
    (signature,) = document["signatures"]
    assert signature["key_id"] == hashlib.sha256(key.public.raw).hexdigest()[:16] == key.public.id
    raw = base64.b64decode(signature["signature"])
    assert len(raw) == 64
    public = ed25519.Ed25519PublicKey.from_public_bytes(key.public.raw)
    public.verify(raw, b"pocketvit-channel-1\n" + document["payload"].encode())
    assert raw == key.key.sign(PREFIX + document["payload"].encode())


def test_any_pinned_key_will_do_and_no_other() -> None:
    old, new = fixed_key(), PrivateKey(key := ed25519.Ed25519PrivateKey.generate(), PublicKey(raw_of(key)))
    both = sign(DESCRIPTION, [old, new])
    for pinned in ([old.public], [new.public], [new.public, old.public]):
        signed = opened(both, pinned)
        assert signed.description == DESCRIPTION
        assert signed.key_id in {key.id for key in pinned}
        assert signed.content == both
        assert signed.payload_sha256 == hashlib.sha256(json.loads(both)["payload"].encode()).hexdigest()
    with pytest.raises(VerificationError, match=f"no pinned key \\({new.public.id}\\).*names {old.public.id}"):
        opened(sign(DESCRIPTION, [old]), [new.public])
    with pytest.raises(VerificationError, match="no pinned key"):
        opened(both, [])


def raw_of(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes_raw())


def changed(**fields: Any) -> bytes:
    """A properly signed description with other fields, whatever they are."""
    payload = json.dumps(json.loads(DESCRIPTION.model_dump_json()) | fields)
    return resigned(payload)


def resigned(payload: str) -> bytes:
    key = fixed_key()
    signature = base64.b64encode(key.key.sign(PREFIX + payload.encode(errors="replace"))).decode()
    return json.dumps({"payload": payload, "signatures": [{"key_id": key.public.id, "signature": signature}]}).encode()


def tampered(document: bytes) -> list[bytes]:
    """Documents that the key has not signed as they are."""
    found = json.loads(document)
    first = found["signatures"][0]
    payload = found["payload"]
    raw = bytearray(base64.b64decode(first["signature"]))
    raw[5] ^= 1

    def with_signature(**fields: Any) -> dict[str, Any]:
        return found | {"signatures": [first | fields]}

    odd = [
        found | {"payload": payload.replace('"counter":7', '"counter":8')},
        found | {"payload": payload + " "},
        found | {"payload": payload.replace("tiny", "t\u0131ny")},
        found | {"payload": payload.replace("tiny", "\ud800")},
        found | {"signatures": []},
        found | {"signatures": [first] * 9},
        found | {"more": 1},
        with_signature(signature=base64.b64encode(raw).decode()),
        with_signature(signature=first["signature"][:-4]),
        with_signature(signature="!" + first["signature"][1:]),
        with_signature(signature=""),
        with_signature(key_id="0" * 16),
        with_signature(key_id=first["key_id"].upper() + "x"),
    ]
    return [json.dumps(x).encode() for x in odd]


def test_whatever_is_changed_is_refused() -> None:
    document, keys = sign(DESCRIPTION, [fixed_key()]), [fixed_key().public]
    assert opened(document, keys).description == DESCRIPTION
    others = [b"", b"{}", b"null", b"[" * 5000, b"\xff\xfe", document[:-20], b" " * 40_000 + document]
    for content in [*tampered(document), *others]:
        with pytest.raises(VerificationError, match=r"channel\.json"):
            opened(content, keys)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema_version": 2},
        {"counter": 0},
        {"counter": 2**53},
        {"counter": "7"},
        {"counter": True},
        {"counter": 7.5},
        {"name": "../x"},
        {"version": "1.2"},
        {"manifest_sha256": "0" * 63},
        {"manifest_sha256": HASH + "\n"},
        {"time": "yesterday"},
        {"surprise": 1},
        {"pack": {"file": "../../etc/passwd", "bytes": 10, "sha256": HASH}},
        {"pack": {"file": ".hidden", "bytes": 10, "sha256": HASH}},
        {"pack": {"file": "a/b.pvit", "bytes": 10, "sha256": HASH}},
        {"pack": {"file": "a.pvit", "bytes": 10**18, "sha256": HASH}},
        {"pack": {"file": "a.pvit", "bytes": 0, "sha256": HASH}},
    ],
)
def test_what_is_signed_must_make_sense_too(fields: dict[str, Any]) -> None:
    assert opened(changed(), [fixed_key().public])
    with pytest.raises(VerificationError, match="is no description"):
        opened(changed(**fields), [fixed_key().public])


def test_a_key_pair_is_made_once_and_the_private_one_is_for_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    previous = os.umask(0)
    try:
        assert main(["publish", "--new-key", str(tmp_path / "k")]) == 0
    finally:
        os.umask(previous)
    private, public = tmp_path / "k", tmp_path / "k.pub"
    assert private.stat().st_mode & 0o777 == 0o600
    assert read_private(private).public == read_public(public)
    with pytest.raises(UsageError, match="is a public key, which cannot sign"):
        read_private(public)
    assert read_public(public).id in capsys.readouterr().out
    before = private.read_bytes(), public.read_bytes()
    assert main(["publish", "--new-key", str(private)]) == 2
    assert "already exists" in capsys.readouterr().err
    (tmp_path / "l.pub").write_text("mine")
    with pytest.raises(UsageError, match=r"l\.pub already exists"):
        new_key(tmp_path / "l")
    assert not (tmp_path / "l").exists()
    assert before == (private.read_bytes(), public.read_bytes())


def test_keys_that_are_none_are_named(tmp_path: Path) -> None:
    new_key(tmp_path / "k")
    (tmp_path / "k.pub").chmod(0o600)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    locked = serialization.BestAvailableEncryption(b"secret")
    other, mine = ec.generate_private_key(ec.SECP256R1()), fixed_key().key
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    files = {
        "other": other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        "other.pub": other.public_key().public_bytes(pem, public),
        "locked": mine.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked),
        "text": b"hello",
        "binary": b"\xff\x00",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    for name in ("other", "locked", "text", "binary", "k.pub", "missing", "."):
        with pytest.raises(UsageError):
            read_private(tmp_path / name)
    for name in ("other.pub", "text", "binary", "missing", "."):
        with pytest.raises(UsageError):
            read_public(tmp_path / name)
    with pytest.raises(UsageError, match="password"):
        read_private(tmp_path / "locked")
    with pytest.raises(UsageError, match="is a private key"):
        read_public(tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(UsageError, match="other users may read") as caught:
        read_private(tmp_path / "k")
    assert caught.value.todo == f"Run: chmod 600 {tmp_path / 'k'}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_makes_and_reads_the_same_keys(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", tmp_path / "p"], check=True, capture_output=True)
    key.chmod(0o600)
    assert read_private(key).public == read_public(tmp_path / "p")


def test_without_cryptography_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingDependencyError, match="cryptography is not installed") as caught:
        new_key(tmp_path / "k")
    assert caught.value.todo == 'Run: pip install "pocketvit[serve]"'
    assert list(tmp_path.iterdir()) == []
