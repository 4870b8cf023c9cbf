"""What the tests of model updates share: keys, artifacts in several versions, channels, and a small server of files."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pocketvit.serve.channels.channel import Channel, Current
from pocketvit.serve.channels.signing import PublicKey, new_key, opened, read_private, sign
from pocketvit.serve.publish import PublishReport, publish
from pocketvit.spec.artifact import Artifact, check_variant_files, file_entries, read_artifact, write_manifest
from tests.tiny import make_tiny_artifact, restore_onnx


def make_version(folder: Path, version: str, blur: float = 0.4, **changes: Any) -> Artifact:
    """A restorer of this version; with another ``blur`` than 0.4 it does not do what its goldens say."""
    artifact = make_tiny_artifact(folder, version=version, **changes)
    if blur != 0.4:
        restore_onnx(folder / "model.onnx", blur=blur)
        write_manifest(folder, artifact.manifest.model_copy(update={"files": file_entries(folder)}))
    return read_artifact(folder)


@dataclass
class World:
    """A publisher and a receiver in one folder."""

    folder: Path
    key: PublicKey
    switched: list[Current] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path) -> World:
        """With a key and the artifact that the server is started with."""
        make_version(folder / "base", "0.1.0")
        return cls(folder, new_key(folder / "key"))

    @property
    def channel(self) -> Path:
        return self.folder / "channel"

    def publish(self, version: str, blur: float = 0.4, **changes: Any) -> PublishReport:
        """Make and publish a version, without the publisher's own check."""
        source = self.folder / "sources" / f"{version}-{blur}-{len(changes)}"
        if not source.exists():
            make_version(source, version, blur, **changes)
        report = publish(str(source), to=str(self.channel), key=[str(self.folder / "key")], check=False, again=True)
        assert isinstance(report, PublishReport)
        return report

    def open(self, where: str | None = None, **options: Any) -> Channel:
        """The receiver; its golden check always passes, unless ``check`` is given."""
        options = {
            "folder": self.folder / "state",
            "base": str(self.folder / "base"),
            "switch": self.switched.append,
            "check": lambda folder: None,
            **options,
        }
        return Channel(where or str(self.channel), options.pop("keys", [self.key]), **options)


def whole(current: Current) -> bool:
    """Whether every byte of what is to be run is what its manifest says."""
    artifact = read_artifact(current.path)
    for variant in artifact.manifest.variants:
        check_variant_files(artifact, variant)
    return artifact.manifest.version == current.version


def without_threads(request: pytest.FixtureRequest) -> bool:
    """Run a test that forks in a process of its own, where no thread can hold a lock at that moment.

    Returns whether that was done, and the caller has nothing left to do; False in that process itself.
    """
    if os.environ.get(_ALONE):
        return False
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts=-q"]
    environment = os.environ | {_ALONE: "1"}
    done = subprocess.run(
        [*command, f"{request.path}::{request.node.name}"], cwd=request.config.rootpath, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout
    return True


_ALONE = "POCKETVIT_TEST_ALONE"
_STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"}


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a forked process that gets SIGKILL just before its step number ``step`` that changes the disk.

    Returns whether it was killed; ``False``: it had fewer steps, and ended well.
    """
    pid = os.fork()
    if pid == 0:
        code, left = 1, [step]

        def hook(event: str, args: tuple[Any, ...]) -> None:
            flags = args[2] if event == "open" and isinstance(args[2], int) else 0
            if event in _STEPS or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


@dataclass
class Server:
    """A folder behind http.server that takes PUT, and can be told to misbehave."""

    root: Path
    url: str = ""
    token: str = ""
    """Wanted of every request, where it is set."""
    cut: int | None = None
    """Send so many bytes of a pack and hang up."""
    endless: bool = False
    """Send more and more, without a length."""
    drip_s: float = 0.0
    """Seconds between the bytes of a pack."""
    redirect: str = ""
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, Authorization."""


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        self.state.seen.append((self.command, self.path, given))
        if self.state.token and given != f"Bearer {self.state.token}":
            self.send_error(401)
            return False
        return True

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.state.root / Path(self.path).name
        if not self._allowed():
            return
        if self.headers.get("If-None-Match") == "*" and path.exists():
            self.send_error(412)
            return
        path.write_bytes(content)
        self.send_response(201)
        self.end_headers()

    def do_GET(self) -> None:
        if not self._allowed():
            return
        path = self.state.root / Path(self.path).name
        if self.state.redirect:
            self.send_response(302)
            self.send_header("Location", f"{self.state.redirect}/{path.name}")
            self.end_headers()
        elif not path.is_file():
            self.send_error(404)
        else:
            with suppress(OSError):  # who reads may have had enough
                self._send(path.read_bytes(), path.suffix == ".pvit")

    def _send(self, content: bytes, pack: bool) -> None:
        self.send_response(200)
        if not self.state.endless:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if pack and self.state.drip_s:
            for byte in content:
                self.wfile.write(bytes([byte]))
                threading.Event().wait(self.state.drip_s)
        self.wfile.write(content[: self.state.cut] if pack and self.state.cut is not None else content)
        while self.state.endless:
            self.wfile.write(bytes(65536))


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[Server]:
    """A server of ``root`` on a free port of this machine."""
    root.mkdir(exist_ok=True)
    state = Server(root, **options)
    handler = type("Handler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        state.url = f"http://127.0.0.1:{server.server_address[1]}/models"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join(5)


def versions(world: World) -> list[str]:
    """What lies in the receiver's folder of versions, counters alone."""
    return sorted({name.split("-")[0].lstrip("0") for name in os.listdir(world.folder / "state" / "versions")})


def sign_by_hand(world: World, key: Path | None = None, **changes: object) -> None:
    """Let the channel's description say something else, signed by the publisher's key or by ``key``."""
    file = world.channel / "channel.json"
    found = opened(file.read_bytes(), [world.key]).description
    private = read_private(key or world.folder / "key")
    file.write_bytes(sign(found.model_copy(update=changes), [private]))


def following(world: World, *more: str) -> list[str | Path]:
    """Arguments of a server that follows the publisher's channel."""
    paths = ("--updates.key", world.folder / "key.pub", "--updates.folder", world.folder / "states")
    return [world.folder / "base", "--updates.channel", str(world.channel), *paths, "--updates.seconds", "0.2", *more]


def answers_with(url: str, version: str, seconds: float = 90) -> bool:
    """Whether a server comes to answer with this version."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if httpx.get(f"{url}/v1/models").json()[0]["version"] == version:
            return True
        time.sleep(0.05)
    return False
