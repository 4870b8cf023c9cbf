"""A server under load, and its end: clients that never pause, then SIGTERM while their requests are inside.

python benchmarks/serve_load.py [--seconds 60] [--clients 16] [--artifact denoise-color] [--target onnxruntime:fp32:1]
    [--everything]

Half of the requests send a small noisy photo to the artifact and get a picture, half a photo to a tiny classifier that
is made here, each over a connection that is kept. With ``--everything`` the server has the phone app, watches, takes
corrections, follows a channel, in which two versions appear meanwhile, and serves the tail of a split network; each of
these is asked too. Printed are requests, statuses, and latencies as the clients see them
(they share the processor with the server); the server's resident memory as medians over its first and last minute (or
third, where it runs for less than three); and what became of the requests that were inside at SIGTERM. A request is
lost where it was sent and no whole answer came. Exit code 1: a status other than 200 and 429 (503 after SIGTERM),
something lost, memory that grew by more than 5 per cent, or a server that did not end well.
"""

import argparse
import http.client
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from serving import Everything, Server, everything, packed, serving, tiny_classifier

from pocketvit.bench.memory import synthetic

SIZES = ((96, 128), (120, 160), (64, 64))
LIMIT = 5.0
"""Per cent by which memory may grow."""
SAMPLE_S = 0.25


@dataclass
class Tally:
    """What one client saw."""

    statuses: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By when (``load`` or ``end``), route and status."""
    times: dict[str, list[float]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    """Connections that were not taken any more after SIGTERM."""


Asked = tuple[str, bytes, str]
"""Path, body and its content type; without a body it is a GET."""


def requests_of(artifact_task: str, whole: Everything | None) -> list[Asked]:
    """Each client asks for them in turn."""
    rng, found = np.random.default_rng(0), list[Asked]()
    for height, width in SIZES:
        photo = synthetic((height, width))
        noisy = np.clip(photo + rng.normal(0, 20, photo.shape), 0, 255).astype(np.uint8)
        found.append((f"/v1/{artifact_task}", packed(noisy), "image/png"))
        found.append(("/v1/classify?model=tiny-classify", packed(photo, "JPEG"), "image/jpeg"))
    if whole is not None:
        form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % packed(
            photo
        )
        found.append(("/v1/classify?model=cut1-tail", whole.features, "application/x-pocketvit-features"))
        found.append(("/v1/feedback?model=tiny-classify&label=red", form, "multipart/form-data; boundary=b"))
        found += [(path, b"", "") for path in ("/v1/drift", "/v1/updates", "/phone/config.json", "/phone/sw.js")]
    return found


def client(tally: Tally, turn: int, server: Server, asked: Sequence[Asked], ending: threading.Event) -> None:
    """Ask without a pause; after SIGTERM until the first refusal."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
    while True:
        (path, body, kind), turn = asked[turn % len(asked)], turn + 1
        route = path.partition("?")[0]
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:
            tally.refused += 1
            if ending.is_set():
                return
            continue
        began = time.perf_counter()
        try:
            if body:
                connection.request("POST", path, body, {"Content-Type": kind})
            else:
                connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            when = "after SIGTERM" if ending.is_set() else "under load"
            tally.lost.append(f"{route} {when}: {type(error).__name__} {error}")
            connection.close()
            if ending.is_set():
                return
            continue
        when = "end" if ending.is_set() else "load"  # asked before SIGTERM, and refused behind it
        tally.statuses[when, route, answer.status] += 1
        if when == "load" and answer.status < 300:
            tally.times.setdefault(route, []).append(1e3 * (time.perf_counter() - began))
        if answer.status == 429:
            time.sleep(min(1.0, float(answer.headers["Retry-After"])))
        if answer.status == 503 and ending.is_set():
            return


def watch(process: psutil.Process, samples: list[tuple[float, float]], ending: threading.Event) -> None:
    """Seconds and resident MB."""
    began = time.perf_counter()
    while not ending.wait(SAMPLE_S):
        try:
            samples.append((time.perf_counter() - began, process.memory_info().rss / 1e6))
        except psutil.Error:
            return


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """Print the medians of the beginning and the end; the difference in per cent."""
    total = samples[-1][0]
    part = 60.0 if total >= 180 else total / 3
    first = statistics.median(mb for second, mb in samples if second <= part)
    last = statistics.median(mb for second, mb in samples if second >= total - part)
    percent = 100 * (last - first) / first
    peak = max(mb for _, mb in samples)
    span = f"first {part:.0f} s, {last:.1f} MB in the last"
    print(f"memory: {first:.1f} MB in the {span}, {percent:+.1f} %, peak {peak:.1f}")
    return percent


def report(tallies: Sequence[Tally]) -> bool:
    """Print what the clients saw; whether all of it was as it should be."""
    statuses: Counter[tuple[str, str, int]] = sum((tally.statuses for tally in tallies), Counter())
    for (when, route, status), count in sorted(statuses.items(), reverse=True):
        print(f"{'under load' if when == 'load' else 'after SIGTERM':14} {route:14} {status} {count:7d}")
    for route in sorted({route for tally in tallies for route in tally.times}):
        times = np.array([ms for tally in tallies for ms in tally.times.get(route, [])])
        p50, p90, p99 = np.percentile(times, (50, 90, 99))
        print(f"latency {route:14} p50 {p50:8.1f} ms  p90 {p90:8.1f} ms  p99 {p99:8.1f} ms  max {times.max():8.1f} ms")
    lost = [text for tally in tallies for text in tally.lost]
    refused = sum(tally.refused for tally in tallies)
    print(f"lost requests: {len(lost)}; connections refused at the end: {refused}")
    for text in lost[:10]:
        print(f"  {text}")
    fine = {"load": (200, 429), "end": (200, 429, 503)}
    again = {"/v1/feedback": (201, 409)}  # of one photo there is one correction
    return not lost and all(status in (*fine[when], *again.get(route, ())) for when, route, status in statuses)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--artifact", default="denoise-color")
    parser.add_argument("--task", default="restore", help="of the artifact")
    parser.add_argument("--target", default="", help="of the server; the artifacts' own by default")
    parser.add_argument("--workers", default="", help="of the server; the cores by default")
    parser.add_argument("--everything", action="store_true", help="all that serve can do is on, and asked")
    options = parser.parse_args()
    given = list[str]()
    for name, option in (("target", "--target"), ("workers", "--limits.workers")):
        given += [option, getattr(options, name)] if getattr(options, name) else []
    ending, samples, tallies = threading.Event(), list[tuple[float, float]](), list[Tally]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = everything(folder, options.artifact) if options.everything else None
        artifacts = whole.artifacts if whole else (options.artifact, tiny_classifier(folder))
        with serving(artifacts, [*given, *(whole.options if whole else ())], folder) as server:
            process = psutil.Process(server.process.pid)
            print(f"idle: {process.memory_info().rss / 1e6:.1f} MB resident")
            asked = requests_of(options.task, whole)
            threads = [threading.Thread(target=watch, args=(process, samples, ending))]
            for number in range(options.clients):
                tallies.append(Tally())
                threads.append(threading.Thread(target=client, args=(tallies[-1], number, server, asked, ending)))
            for thread in threads:
                thread.start()
            for version in ("0.2.0", "0.3.0") if whole else ():
                time.sleep(options.seconds / 3)
                whole.publish(version)
            time.sleep(options.seconds / (3 if whole else 1))
            ending.set()
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            code = server.process.wait(120)
        total = sum(sum(tally.statuses.values()) for tally in tallies)
        print(f"{total} requests of {options.clients} clients in {options.seconds:g} s; the server ended with {code}")
        fine = report(tallies)
        return 0 if growth(samples) <= LIMIT and fine and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
