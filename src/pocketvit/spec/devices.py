"""Devices that are not of this machine: what is run there is sent there, and what it took comes back.

A new one is a module that connects to it and a row in ``DEVICES``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketvit.errors import UsageError
from pocketvit.spec.typed import Range, check_ranges


@dataclass(frozen=True)
class Device:
    """A kind of device elsewhere: a row of ``DEVICES``. Reading it imports nothing."""

    name: str
    """What a target calls it: ``onnxruntime:int8@phone``, or the name alone."""
    place: str
    """``module:function`` of ``connect(contact, notify)``, which gives a :class:`pocketvit.bench.remote.Remote` to be
    used in a ``with`` block; a text, since it lies above, and imported only when the device is asked for."""
    extra: str
    """Extra of pocketvit that installs what it needs; empty where the base install does."""
    runtimes: tuple[str, ...]
    """Whose files run there. They are proven on this machine's processor too, and in the same precision."""


DEVICES = {"phone": Device("phone", "pocketvit.serve.phone.remote:connect", "serve", ("onnxruntime",))}


@dataclass(frozen=True)
class ContactConfig:
    """Where this machine waits for a device that is not its own (``target: phone``)."""

    host: str = "0.0.0.0"
    """Name or address to listen on; 0.0.0.0 is all of this machine's, 127.0.0.1 lets in what a cable forwards."""
    port: int = 8443
    """TCP port; 0 takes a free one."""
    tls: str = "auto"
    """Browsers give threads to pages that came over TLS or from the machine itself: ``auto`` makes a certificate of our
    own, which the browser warns of once; ``certificate.pem,key.pem`` takes yours; ``none`` does without."""
    tls_folder: str | None = None
    """Where ``auto`` keeps its files; ~/.config/pocketvit/tls by default."""
    app: str | None = None
    """Folder of the built page that the device opens; a checkout's web/dist by default."""
    wait_seconds: float = 600.0
    """How long the device is waited for, when it has not come yet and when it has gone away."""

    def __post_init__(self) -> None:
        limits = {"port": Range(0, 65535), "wait_seconds": Range(0, 86_400, above=True)}
        check_ranges("contact", self, limits)


def device_of(name: str) -> Device | None:
    """The record of a device that is not of this machine; ``None`` for those that are."""
    return DEVICES.get(name)


def check_device(device: Device, runtime: str) -> None:
    """Raise ``UsageError`` unless files of ``runtime`` run on ``device``."""
    if runtime not in device.runtimes:
        what = f"{device.name} runs no files of {runtime}."
        raise UsageError(what, f"Take {', '.join(device.runtimes)}, or leave the runtime at any.")
