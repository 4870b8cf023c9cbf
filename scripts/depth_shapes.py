"""Shapes of pocketdepth, timed with random weights before any is trained: the table of docs/LOG.md.

python scripts/depth_shapes.py [--seconds 120] [--only NAME ...] [--threads 2] [--steps 8] [--out table.md]

One (480, 640, 3) uint8 frame, decoded, to a (480, 640) float32 map: reduced to the network's input (Pillow, bilinear),
run, enlarged. All files of all candidates take turns, so their times are of the same minutes; ``size`` is the network's
input. Training: forward and backward of batches of 8 at that size in bf16 autocast, images a second, best of ``steps``.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from pocketvit.errors import PocketvitError
from pocketvit.export.formats import exporter
from pocketvit.export.wrap import PixelModel, macs_of
from pocketvit.models import build
from pocketvit.models.pocketdepth import DenseDecoder
from pocketvit.runtimes import open_session
from pocketvit.spec.environment import environment
from pocketvit.spec.preprocess import PIXELS, Pixels, Preprocess, prepare
from pocketvit.spec.target import Target

FRAME, BATCH = (480, 640), 8
TARGETS = {"ORT fp32": ("onnx", "onnxruntime", "fp32"), "OV fp32": ("openvino", "openvino", "fp32")}
TARGETS |= {"OV bf16": ("openvino", "openvino", "bf16")}


class Pyramid(nn.Module):
    """Any backbone with maps under the decoder of pocketdepth: the candidates without a ViT."""

    def __init__(self, name: str, size: tuple[int, int], widths: tuple[int, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.backbone: Any = build(name, size, options)
        used = len(widths)
        self.decoder = DenseDecoder(self.backbone.channels[-used:], widths, (1,) * used)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.backbone.features(image)[-len(self.decoder.blocks) :])


@dataclass(frozen=True)
class Shape:
    """A candidate: what builds it, at which size of the network's input."""

    size: tuple[int, int]
    make: Callable[[tuple[int, int]], nn.Module]


def pocket(size: tuple[int, int], hooks: tuple[int, ...], widths: tuple[int, ...], **options: Any) -> Shape:
    levels = len(widths)
    counts = {"branch": (0, *(1,) * (levels - 2)), "decoder": (1,) * levels} | options
    return Shape(size, lambda at: build("pocketdepth", at, {"hooks": hooks, "widths": widths} | counts))


def pyramid(name: str, size: tuple[int, int], decoded: tuple[int, ...], **options: Any) -> Shape:
    return Shape(size, lambda at: Pyramid(name, at, decoded, options))


SHAPES: dict[str, Shape] = {
    "6 blocks, 192x256, 32-64-96-128": pocket((192, 256), (2, 5), (32, 64, 96, 128)),
    "8 blocks, 192x256, 32-64-96-128": pocket((192, 256), (3, 7), (32, 64, 96, 128)),
    "8 blocks, 192x256, three hooks": pocket((192, 256), (2, 5, 7), (32, 64, 96, 128)),
    "9 blocks, 192x256, 48-96-128-160": pocket((192, 256), (4, 8), (48, 96, 128, 160)),
    "8 blocks, 192x256, 64-96-128, quarter": pocket((192, 256), (3, 7), (64, 96, 128)),
    "8 blocks, 192x256, 16-32-64-96": pocket((192, 256), (3, 7), (16, 32, 64, 96)),
    "8 blocks, 224x304, 32-64-96-128": pocket((224, 304), (3, 7), (32, 64, 96, 128)),
    "8 blocks, 240x320, 32-64-96-128": pocket((240, 320), (3, 7), (32, 64, 96, 128)),
    "6 blocks, 240x320, 16-48-96-128": pocket((240, 320), (2, 5), (16, 48, 96, 128)),
    "no branch blocks, 8 blocks, 240x320": pocket((240, 320), (3, 7), (16, 48, 96, 128), branch=(0, 0, 0)),
    "convolutions and windows (restorer), 192x256": pyramid(
        "restorer_m", (192, 256), (48, 64, 96, 160), widths=[48, 64, 96, 160], encoder=[1, 1, 1],
        decoder=[0, 0, 0], bottleneck="rwrwrwr",
    ),
    "timm mobilenetv3_large_100, 192x256": pyramid("timm:mobilenetv3_large_100", (192, 256), (16, 32, 48, 96, 128)),
    "timm mobilenetv4_conv_small, 240x320": pyramid("timm:mobilenetv4_conv_small", (240, 320), (32, 64, 96, 128)),
}  # fmt: skip


class Metres(nn.Module):
    """A network's score to metres at the size of its input, as the task does it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        score = F.interpolate(self.network(image), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return 10 * score.sigmoid()


@dataclass
class Figures:
    """What is known of one candidate."""

    parameters: float
    macs: float
    images_per_s: float
    times: dict[str, Timing] = field(default_factory=dict)


def as_output(answer: Tensor, preprocess: Preprocess) -> Tensor:
    return answer[:, 0].float()


def training_rate(model: nn.Module, size: tuple[int, int], steps: int) -> float:
    """Images a second, forward and backward, of the fastest of ``steps``; 0 steps: not measured."""
    image, best = torch.rand(BATCH, 3, *size).contiguous(memory_format=torch.channels_last), 0.0
    model = model.to(memory_format=torch.channels_last).train()
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            answer = model(image)
        answer.float().square().mean().backward()
        best = max(best, BATCH / (time.perf_counter() - start))
    model.zero_grad(set_to_none=True)
    return best


def answer(run: Callable[[Pixels], np.ndarray], spec: Preprocess, frame: Pixels) -> np.ndarray:
    """One frame to one map of its size."""
    metres = run(prepare(frame, spec))
    return np.asarray(Image.fromarray(metres).resize(frame.shape[1::-1], Image.Resampling.BILINEAR))


def as_pixel_model(shape: Shape, model: nn.Module) -> PixelModel:
    spec = Preprocess(size=shape.size, resize="stretch", interpolation="bilinear")
    return PixelModel(Metres(model), spec, as_output, ["depth"])


def calls_of(name: str, model: PixelModel, folder: Path, threads: int) -> Iterator[tuple[str, Any]]:
    """A call for each engine and precision that this machine has."""
    spec = model.preprocess
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    files: dict[str, Path] = {}
    for title, (form, runtime, precision) in TARGETS.items():
        try:
            if form not in files:
                files[form] = exporter(form)(model, spec.size, folder, "model").path
            session = open_session(files[form], Target(runtime, precision, threads))
        except PocketvitError as error:
            print(f"left out: {name}, {title}: {error.what}")
            continue
        run = partial(lambda session, pixels: session.run({PIXELS: pixels[None]})["depth"][0], session)
        yield title, partial(answer, run, spec, frame)


def table(found: dict[str, Figures]) -> str:
    """Markdown: a row for each candidate."""
    lines = [f"| shape | M | GMACs | {' | '.join(TARGETS)} | train |", "|---" * (4 + len(TARGETS)) + "|"]
    for name, row in found.items():
        times = (row.times.get(title) for title in TARGETS)
        cells = (f"{x.p50:.1f} ± {50 * x.spread:.0f} %" if x else "-" for x in times)
        lines.append(
            f"| {name} | {row.parameters / 1e6:.2f} | {row.macs / 1e9:.2f} | {' | '.join(cells)} |"
            f" {row.images_per_s:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing, for all files together")
    parser.add_argument("--only", nargs="+", default=[], help="candidates whose names hold any of these texts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="training steps for each; 0 times none")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wanted = {k: v for k, v in SHAPES.items() if not arguments.only or any(text in k for text in arguments.only)}
    found: dict[str, Figures] = {}
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for index, (name, shape) in enumerate(wanted.items()):
            torch.manual_seed(0)
            model, folder = shape.make(shape.size), Path(scratch, str(index))
            folder.mkdir()
            rate = training_rate(model, shape.size, arguments.steps)
            pixel_model = as_pixel_model(shape, model)
            found[name] = Figures(sum(p.numel() for p in model.parameters()), macs_of(pixel_model), rate)
            for title, call in calls_of(name, pixel_model, folder, arguments.threads):
                calls[f"{name}\n{title}"] = call
        busy = quiet(0)
        timings = interleave(calls, seconds=arguments.seconds, min_rounds=5, pause_ms=5)
    for key, timing in timings.items():
        name, _, title = key.partition("\n")
        found[name].times[title] = timing
    rounds = len(next(iter(timings.values())).times_ms)
    text = table(found)
    print(f"{text}\n\np50 in ms ± half of the interquartile range, {rounds} rounds, {arguments.threads} threads;")
    print(f"{machine_was(busy)}\n{json.dumps(environment())}")
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
