"""Depth networks side by side: from one decoded 640x480 frame to a depth map of its size, all files in turns.

python benchmarks/depth.py [--models pocketdepth ...] [--seconds 120] [--threads 2] [--int8_below 40] [--out table.md]

What is timed: (480, 640, 3) uint8 in; reduced to the network's input (Pillow, bilinear, antialiased), the file run, its
map enlarged (Pillow, bilinear) to (480, 640) float32 out. Reading and writing files is left out. Weights are random,
which decide no time and no size; so int8 (every layer quantised, in each engine as ``compress`` does it) is a time
alone: whether it holds its accuracy is for ``fit`` to say. What this machine cannot run, or this version cannot build,
is named and left out. All files of all models take turns, so every ratio is of the same minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pocketvit.bench.load import machine_was, quiet
from pocketvit.bench.timing import Timing, interleave
from pocketvit.compress.onnxruntime_int8 import StaticInt8, quantise_all
from pocketvit.compress.openvino_int8 import NncfInt8, nncf_int8
from pocketvit.compress.step import Context
from pocketvit.errors import PocketvitError
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.export.wrap import PixelModel, macs_of
from pocketvit.models import build
from pocketvit.runtimes import Session, check_target, open_session
from pocketvit.runtimes.probe import probe
from pocketvit.spec.environment import environment
from pocketvit.spec.preprocess import PIXELS, Pixels, Preprocess, prepare
from pocketvit.spec.target import Target

FRAME, WARMUP, PAUSE_MS = (480, 640), 3, 5
DEPTH, NEAR, FAR = "depth", 0.1, 10.0


@dataclass(frozen=True)
class System:
    """An architecture at the size of its input."""

    name: str
    size: tuple[int, int]

    @property
    def title(self) -> str:
        """As the table calls it."""
        return f"{self.name} {self.size[0]}x{self.size[1]}"


SYSTEMS = (
    System("dpt_large", (384, 384)),
    System("dpt_hybrid", (384, 384)),
    System("adabins", (384, 384)),
    System("adabins_small", (240, 320)),
    System("depth_anything_small", (252, 252)),
    System("depth_anything_small", (518, 518)),
    System("pocketdepth_xs", (192, 256)),
    System("pocketdepth", (192, 256)),
    System("pocketdepth_l", (240, 320)),
)
"""DPT and AdaBins at the size of the figures that were reported for them."""


class DepthMap(nn.Module):
    """What a network gives to a map of its input's size, in the graph: (B, 3, H, W) -> (B, H, W).

    A score becomes metres as the task does it; metres (AdaBins) are only enlarged.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        answer = self.network(image)
        metres = answer[0] if isinstance(answer, tuple) else NEAR + (FAR - NEAR) * answer.sigmoid()
        return F.interpolate(metres, size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True, eq=False)
class Entry:
    """A file to time: of which system, and its figures."""

    title: str
    key: str
    bytes: int
    session: Session
    spec: Preprocess
    parameters: int
    macs: int

    def answer(self, frame: Pixels) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32."""
        found = self.session.run({PIXELS: prepare(frame, self.spec)[None]})[DEPTH][0]
        return np.asarray(Image.fromarray(found).resize(frame.shape[1::-1], Image.Resampling.BILINEAR))


def pixel_model_of(system: System) -> PixelModel:
    """The network with random weights, from pixels to the map. Raises UsageError: it cannot be built here."""
    torch.manual_seed(0)
    spec = Preprocess(size=system.size, resize="stretch", interpolation="bilinear")
    network = DepthMap(build(system.name, system.size))
    return PixelModel(network, spec, lambda answer, _: answer.float(), [DEPTH])


def files_of(model: PixelModel, folder: Path, frames: Sequence[Pixels], quantised: bool) -> Iterator[Built]:
    """fp32 of both engines, bf16 of OpenVINO, int8 of both; what cannot be made is named and left out."""
    size, context = model.preprocess.size, Context(frames, folder, max_change=1e9)
    steps: dict[str, Callable[[Built, Context], Built]] = {
        "onnx": partial(quantise_all, StaticInt8(smooth=(), compensate=False)),
        "openvino": lambda built, context: next(nncf_int8(NncfInt8(), built, context)).built,
    }
    for form, int8 in steps.items():
        try:
            built = exporter(form)(model, size, folder, "model")
            yield built
            if form == "openvino":
                yield Built("openvino", "bf16", built.path, built.companions)
            if quantised:
                yield int8(built, context)
        except PocketvitError as error:
            print(f"left out: {folder.name}, {form}: {error.what}")


def entries_of(system: System, folder: Path, frames: Sequence[Pixels], threads: int, most: float) -> Iterator[Entry]:
    """Every file of one system that this machine can run; each is first run in a process of its own."""
    model = pixel_model_of(system)
    parameters, macs = sum(p.numel() for p in model.parameters()), macs_of(model)
    inputs = [prepare(frame, model.preprocess) for frame in frames]
    if parameters > 1e6 * most:
        print(f"left out: int8 of {system.title}: it has more than {most:g} M parameters (--int8_below).")
    for built in files_of(model, folder, inputs, parameters <= 1e6 * most):
        target = Target(built.runtime, built.precision, threads)
        try:
            check_target(target)
            probe(built.path, target, system.size)
            session = open_session(built.path, target)
        except PocketvitError as error:
            print(f"left out: {system.title} in {target}: {error.what}")
            continue
        yield Entry(system.title, built.key, built.bytes, session, model.preprocess, parameters, macs)


def gather(wanted: Sequence[System], folder: Path, frames: Sequence[Pixels], threads: int, most: float) -> list[Entry]:
    """The files of all systems that this version can build."""
    found: list[Entry] = []
    for index, system in enumerate(wanted):
        place = folder / f"{index}-{system.name}"
        place.mkdir()
        try:
            found += entries_of(system, place, frames, threads, most)
        except PocketvitError as error:
            print(f"left out: {system.title}: {error.what}")
    return found


def table(times: dict[Entry, Timing]) -> str:
    """Markdown: a row for each file."""
    head = "| model, input | engine | ms p50 (25 to 75 %) | 95 % of p50 | fps | GMACs | M parameters | MB |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for entry, timing in times.items():
        low, high = timing.ci95
        quartiles = f"{timing.p50:.1f} ({timing.percentile(25):.1f} to {timing.percentile(75):.1f})"
        figures = f"{entry.macs / 1e9:.2f} | {entry.parameters / 1e6:.2f} | {entry.bytes / 1e6:.1f}"
        lines.append(
            f"| {entry.title} | {entry.key} | {quartiles} | {low:.1f} to {high:.1f} |"
            f" {1e3 / timing.p50:.1f} | {figures} |"
        )
    return "\n".join(lines)


def read_frames(path: str | None, count: int) -> list[Pixels]:
    """Frames of 640x480: a picture of the user's, else smooth noise; for calibration, shifted copies of it."""
    if path:
        picture = Image.open(path).convert("RGB")
    else:
        coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse)
    frame = np.asarray(picture.resize(FRAME[::-1], Image.Resampling.BICUBIC))
    return [np.roll(frame, 37 * index, axis=1) for index in range(count)]


def parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(system.name for system in SYSTEMS))
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing, for all files together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--int8_below", type=float, default=1000.0, help="M parameters; larger ones take minutes")
    parser.add_argument("--image", help="photograph to take as the frame")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    frames, wanted = read_frames(arguments.image, 4), [x for x in SYSTEMS if x.name in arguments.models]
    with tempfile.TemporaryDirectory() as folder:
        entries = gather(wanted, Path(folder), frames, arguments.threads, arguments.int8_below)
        if not entries:
            raise SystemExit("nothing can be timed here.")
        busy = quiet(0)
        calls = {str(index): partial(entry.answer, frames[0]) for index, entry in enumerate(entries)}
        timings = interleave(calls, seconds=arguments.seconds, warmup=WARMUP, pause_ms=PAUSE_MS)
    times = dict(zip(entries, timings.values(), strict=True))
    rounds = len(next(iter(times.values())).times_ms)
    about = [
        f"One decoded {FRAME[1]}x{FRAME[0]} frame, uint8, to a float32 depth map of its size, resizing included;"
        f" {arguments.threads} threads, {rounds} rounds in which all files took turns.",
        f"Random weights: int8 is a time only. fps is 1000 / p50; {machine_was(busy)}.",
        f"`{json.dumps(environment())}`",
    ]
    text = "\n".join([table(times), "", *about])
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
