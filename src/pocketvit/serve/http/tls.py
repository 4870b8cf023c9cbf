"""Certificates of the server: a pair of files that somebody has, or a self-signed one that is made once and kept.

A self-signed certificate encrypts, and a browser warns of it once; who wants more brings a certificate.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pocketvit.errors import DataError, UsageError
from pocketvit.files import home_folder, make_folder, replacing

CERTIFICATE, KEY = "certificate.pem", "key.pem"
DAYS, SPARE_DAYS = 365, 14
"""How long a certificate is valid, and how long before its end another one is made."""


def certificate_files(tls: str, folder: Path, host: str) -> tuple[Path, Path]:
    """Certificate and key of ``tls``: ``auto``, or ``certificate.pem,key.pem``.

    Args:
        tls: ``auto`` takes the pair that lies in ``folder``, or makes one where there is none, where it does not name
            all addresses of this machine, or where it ends within two weeks.
        folder: where ``auto`` keeps the pair; the key can be read by its owner alone.
        host: name or address that the server listens on.

    Raises:
        UsageError: ``tls`` is neither.
        DataError: files that are no certificate and its key, or cannot be read or written.
    """
    if tls == "auto":
        pair = (folder / CERTIFICATE, folder / KEY)
        wanted = names_of(host)
        if not _serves(*pair, wanted):
            _write(*pair, wanted)
        return pair
    certificate, comma, key = tls.partition(",")
    if not (comma and certificate.strip() and key.strip()):
        raise UsageError(f"tls must be auto, or two files, not {tls[:80]!r}.", "Write --tls certificate.pem,key.pem.")
    pair = (Path(certificate.strip()), Path(key.strip()))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair, password=lambda: b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        what = f"{pair[0]} and {pair[1]} are no certificate with its key ({getattr(error, 'strerror', '') or error})."
        raise DataError(what, "Give two PEM files, the key without a password.") from error
    return pair


def kept_in(tls: str, folder: str | None, option: str) -> Path:
    """The folder for the pair of ``auto``; of other ``tls`` none is needed, and the home folder is not asked for.

    Raises:
        UsageError: there is no home folder; ``option`` is what names another.
    """
    if folder is not None or tls != "auto":
        return Path(folder or ".")
    return home_folder(".config/pocketvit/tls", option)


def names_of(host: str) -> list[str]:
    """Names and addresses under which this machine can be reached when it listens on ``host``, sorted."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()}
    everywhere = host in ("", "0.0.0.0", "::")
    if not everywhere:
        names.add(host.lower())
    for addresses in psutil.net_if_addrs().values() if everywhere else ():
        for entry in addresses:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                names.add(entry.address.partition("%")[0])
    return sorted(name for name in names if name)


def _serves(certificate: Path, key: Path, wanted: list[str]) -> bool:
    """Whether a pair is there, belongs together, lasts, and names all that is wanted."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        same = private.public_key() == found.public_key()
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    lasts = found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=SPARE_DAYS)
    return same and lasts and {_general(name) for name in wanted} <= set(alternatives)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode() if not name.isascii() else name)


def _write(certificate: Path, key: Path, wanted: list[str]) -> None:
    """Key first: a certificate without its key would be taken for one that is whole."""
    make_folder(certificate.parent)
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with replacing(key) as partial:
        os.chmod(partial, 0o600)
        partial.write_bytes(pem)
    with replacing(certificate) as partial:
        partial.write_bytes(_signed(private, wanted).public_bytes(serialization.Encoding.PEM))


def _signed(private: ec.EllipticCurvePrivateKey, wanted: list[str]) -> x509.Certificate:
    now, public = datetime.now(UTC), private.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pocketvit serve")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general(each) for each in wanted]), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False),
    ]
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=DAYS))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(private, hashes.SHA256())
