"""Public data sets that ``pocketvit data get`` fetches: where they are, how large, under which terms, what proves them.

Addresses, sizes and checksums are those that the publishers' pages gave in 2026: SIDD's download page lists MD5 and
SHA-1 of each archive, Hugging Face shows the SHA-256 of each large file. A checksum that is not published is left out
here, never made up; then what was fetched first is recorded and a second download is held against it. The code is
tested against local servers; whether an address still answers shows when it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

_YORK = "http://130.63.97.225/share"
"""York University's server, which SIDD's page links to; it has no TLS, so its archives need their checksums."""


@dataclass(frozen=True)
class SourceFile:
    """One archive (zip)."""

    url: str
    name: str
    """As published, also what a mirror or a folder of downloads has it under."""
    bytes: int | None = None
    """Exact size, ``None`` where it is not published."""
    checksums: tuple[str, ...] = ()
    """As published, each ``algorithm:hex``; empty where none is."""


@dataclass(frozen=True)
class Source:
    """One data set."""

    summary: str
    home: str
    """The publisher's page: terms, paper, other ways to get it."""
    licence: str
    files: tuple[SourceFile, ...]
    gigabytes: float
    """About what is fetched; photos hardly pack, so as much again is unpacked."""
    layout: str
    """The reader of :mod:`pocketvit.data.layouts`."""
    holds: tuple[str, ...]
    """Folders at the root of the data set; what the archive has above and beside that root is left out."""
    pairs: tuple[tuple[str, int], ...]
    """Published number of pairs for each split."""


SOURCES = {
    "sidd-small": Source(
        "160 noisy and clean smartphone photos, 12 megapixels (Abdelhamed et al., CVPR 2018), sRGB",
        "https://abdokamel.github.io/sidd/",
        "MIT",
        (
            SourceFile(
                f"{_YORK}/SIDD_Small_sRGB_Only.zip",
                "SIDD_Small_sRGB_Only.zip",
                6_615_978_508,
                ("md5:796971867583bf14677dcae510e52538", "sha1:5a4aa6aa7abcf7b0b56c88ad578fea9a4ff77935"),
            ),
        ),
        6.6,
        "sidd",
        ("Data",),
        (("train", 160),),
    ),
    "sidd-medium": Source(
        "320 noisy and clean smartphone photos, two of each scene (Abdelhamed et al., CVPR 2018), sRGB",
        "https://abdokamel.github.io/sidd/",
        "MIT",
        (
            SourceFile(
                f"{_YORK}/SIDD_Medium_Srgb.zip",
                "SIDD_Medium_Srgb.zip",
                13_234_744_070,
                ("md5:f95b4bc9ec1dd3fe4ebd61aeacad3991", "sha1:b0f895258112db896d6ade0a8ddafc8cfc9bd54d"),
            ),
        ),
        13.2,
        "sidd",
        ("Data",),
        (("train", 320),),
    ),
    "gopro": Source(
        "3214 blurred and sharp frames, 1280x720 (Nah et al., CVPR 2017), GOPRO_Large",
        "https://seungjunnah.github.io/Datasets/gopro",
        "CC-BY-4.0",
        (
            SourceFile(
                "https://huggingface.co/datasets/snah/GOPRO_Large/resolve/main/GOPRO_Large.zip",
                "GOPRO_Large.zip",
                None,
                ("sha256:24532c036712515cf33803704421311c91f6a080e76049d7e5e7fd22389f128e",),
            ),
        ),
        9.5,
        "gopro",
        ("train", "test"),
        (("train", 2103), ("test", 1111)),
    ),
}
