"""Certificates: made once, kept, and made anew where they would not serve."""

from __future__ import annotations

import ipaddress
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pocketvit.errors import DataError, UsageError
from pocketvit.serve.http import tls
from pocketvit.serve.http.tls import certificate_files, names_of


def test_auto_makes_a_certificate_and_keeps_it(tmp_path: Path) -> None:
    certificate, key = certificate_files("auto", tmp_path / "tls", "127.0.0.1")
    before = (certificate.read_bytes(), key.read_bytes())
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["certificate.pem", "key.pem"]
    found = x509.load_pem_x509_certificate(before[0])
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)
    assert timedelta(days=364) < found.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=365)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    certificate_files("auto", tmp_path / "tls", "localhost")
    assert (certificate.read_bytes(), key.read_bytes()) == before


@pytest.mark.parametrize("harm", ["another host", "another key", "no key", "no certificate", "its end is near"])
def test_auto_makes_another_where_the_one_there_would_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    certificate, key = certificate_files("auto", tmp_path / "tls", "127.0.0.1")
    before, host = certificate.read_bytes(), "127.0.0.1"
    if harm == "another host":
        host = "camera.example"
    elif harm == "another key":
        shutil.copy(certificate_files("auto", tmp_path / "other", "127.0.0.1")[1], key)
    elif harm == "no key":
        key.unlink()
    elif harm == "no certificate":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    else:
        monkeypatch.setattr(tls, "SPARE_DAYS", 400)
    certificate_files("auto", tmp_path / "tls", host)
    assert certificate.read_bytes() != before
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)


def test_everywhere_is_every_address_of_this_machine() -> None:
    assert set(names_of("127.0.0.1")) <= set(names_of("0.0.0.0"))
    assert "0.0.0.0" not in names_of("0.0.0.0")
    assert "camera.example" in names_of("Camera.Example")


def test_a_pair_that_somebody_has(tmp_path: Path) -> None:
    certificate, key = certificate_files("auto", tmp_path / "a", "127.0.0.1")
    assert certificate_files(f"{certificate}, {key}", tmp_path, "x") == (certificate, key)
    other = certificate_files("auto", tmp_path / "b", "127.0.0.1")[1]
    for wrong in (f"{certificate},{other}", f"{key},{certificate}", f"{certificate},{tmp_path / 'none.pem'}"):
        with pytest.raises(DataError, match="no certificate with its key"):
            certificate_files(wrong, tmp_path, "x")
    for wrong in ("", "yes", str(certificate), "a.pem,", ",b.pem"):
        with pytest.raises(UsageError, match="auto, or two files"):
            certificate_files(wrong, tmp_path, "x")
