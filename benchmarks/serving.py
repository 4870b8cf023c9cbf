"""A server process for the benchmarks of serving, and the artifacts and photos that they ask about.

python benchmarks/serving.py FOLDER serves everything that there is to serve until Ctrl-C, for tools that ask by
themselves (such as ``st run``); what it keeps lies in FOLDER.
"""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pocketvit.errors import UsageError
from pocketvit.serve.channels.signing import new_key
from pocketvit.serve.phone.app_files import find_app
from pocketvit.serve.publish import publish
from pocketvit.spec.artifact import file_entries, read_artifact, write_manifest
from pocketvit.spec.features import encode

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
sys.path.insert(0, str(ROOT))  # for what the tests make


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    host: str
    port: int
    log: Path


@contextmanager
def serving(artifacts: Sequence[str | Path], options: Sequence[str], folder: Path) -> Iterator[Server]:
    """``pocketvit serve`` on a free port; its log is a file in ``folder``. It is killed where it has not ended."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "pocketvit.cli", "serve", *map(str, artifacts), "--port", "0", *options]
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sink, text=True)
    try:
        yield Server(process, *_address(process, log), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


def _address(process: subprocess.Popen[str], log: Path) -> tuple[str, int]:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        whole = log.read_text().rpartition("\n")[0].splitlines()  # with --phone a QR code comes first
        if lines := [line for line in whole if '"event": "listening"' in line]:
            found = urlsplit(json.loads(lines[0])["url"])
            return str(found.hostname), int(found.port or 0)
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")


def tiny_classifier(folder: Path) -> Path:
    """An artifact that looks at mean colours; the tests' own."""
    from tests.tiny import make_tiny_artifact

    return make_tiny_artifact(folder / "tiny-classify", "classify").path


def packed(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass(frozen=True)
class Everything:
    """A server with all that ``serve`` can do, so far as it needs no certificate and no token."""

    folder: Path
    artifacts: tuple[str | Path, ...]
    options: tuple[str, ...]
    features: bytes
    """What a head sends to the tail that is served."""
    names: tuple[str, ...]
    restorer: Path
    """A tiny one, for a phone."""
    app: Path
    """The phone app, or a stand-in."""

    def publish(self, version: str, *, wrong: bool = False) -> None:
        """Let the server find another version of its classifier; a ``wrong`` one must be refused by its goldens."""
        from tests.tiny import classify_onnx, make_tiny_artifact

        made = make_tiny_artifact(self.folder / "versions" / version, "classify", version=version)
        if wrong:
            classify_onnx(made.path / "model.onnx", weight_scale=-1.0)
            write_manifest(made.path, made.manifest.model_copy(update={"files": file_entries(made.path)}))
        publish(str(made.path), to=str(self.folder / "channel"), key=[str(self.folder / "key")], check=False)


def everything(folder: Path, artifact: str = "denoise-color") -> Everything:
    """A restorer, a classifier that follows a channel, the tail of a split one, masks, boxes; watched, with corrections
    and the phone app (a stand-in where it is not built). Needs torch, which the split network comes from."""
    from tests.halves import write_halves
    from tests.serve.phone.app import built
    from tests.tiny import make_tiny_artifact
    from tests.web.detect_artifact import make_detect_artifact
    from tests.web.segment_artifact import make_segment_artifact

    classifier, tail = tiny_classifier(folder), write_halves(folder / "halves", (1,)) / "cut1" / "tail"
    split = read_artifact(tail).manifest.split
    assert split is not None
    features = np.random.default_rng(0).normal(size=split.shape).astype(np.float32)
    new_key(folder / "key")
    publish(str(classifier), to=str(folder / "channel"), key=[str(folder / "key")], check=False)
    try:
        app = find_app()
    except UsageError:
        app = built(folder / "app")
    options = ("--phone", "--phone_app", app, "--watch.folder", folder / "watched", "--collect", folder / "corrections")
    options += ("--watch.alert_url", "http://127.0.0.1:9/", "--updates.channel", f"tiny-classify={folder / 'channel'}")
    options += ("--updates.key", folder / "key.pub", "--updates.folder", folder / "updates", "--updates.seconds", "1")
    more = (make_segment_artifact(folder / "segment").path, make_detect_artifact(folder / "detect").path)
    artifacts = (artifact, classifier, tail, *more)
    names = tuple(read_artifact(str(each)).manifest.name for each in artifacts)
    restorer = make_tiny_artifact(folder / "tiny-restore").path
    return Everything(folder, artifacts, tuple(map(str, options)), encode(features, split), names, restorer, app)


def main() -> int:
    """Serve until Ctrl-C."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    whole = everything(folder)
    with serving(whole.artifacts, [*whole.options, *sys.argv[2:]], folder) as server:
        print(f"http://{server.host}:{server.port}/openapi.json", flush=True)
        with suppress(KeyboardInterrupt):
            server.process.wait()
        server.process.send_signal(signal.SIGTERM)
        return server.process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
