"""How ``serve --phone`` begins: find the built app, hand it out, say where it is."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from fastapi import FastAPI

from pocketvit.errors import UsageError
from pocketvit.serve.phone.address import announce, phone_urls
from pocketvit.serve.phone.app_files import find_app
from pocketvit.serve.phone.routes import add_phone


def app_folder(phone: bool, folder: str | None) -> Path | None:
    """The folder of the built app where the phone app is wanted; None where it is not.

    Raises:
        UsageError: it is not built, or a folder is named although it is not wanted.
    """
    if phone:
        return find_app(folder)
    if folder is not None:
        raise UsageError("phone_app goes with --phone.", "Leave it out, or add --phone.")
    return None


def open_phone(app: FastAPI, folder: Path, listener: socket.socket, host: str, secure: bool) -> None:
    """Hand out the app in ``folder`` at a listening socket, and print its addresses and a QR code to standard error.

    Where the server has a token it is in the address, behind ``#``: who sees the code may come in.
    """
    add_phone(app, folder)
    urls = phone_urls(host, listener.getsockname()[1], secure, app.state.services.door.token)
    announce(urls, host, secure, sys.stderr)
