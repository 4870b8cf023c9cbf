"""The shipped denoiser as ``predict`` runs it against FFDNet's layer stack, timed in turns in one run.

python benchmarks/denoiser_vs_ffdnet.py [--image photo.jpg] [--seconds 60]

What is timed: one decoded 481x321 photograph, (H, W, 3) uint8 in, rounded uint8 out, reading and writing files left
out. Table 1: every variant of the artifact that this machine can run, opened with ``pocketvit.load``: whole where the
plan says so, padding, cutting and rounding included; beside it FFDNet's layers (random weights, which decide no time),
exported for the whole image and rounded, in every precision that this machine computes in. Table 2: our network
exported for this one size, like FFDNet; those files are not shipped. All files of both tables take turns, so the ratios
of both are of the same rounds.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data

import pocketvit
from pocketvit.bench.command import WARMUP, Stopwatch
from pocketvit.bench.load import machine_was, quiet
from pocketvit.bench.timing import Timing, interleave, speedup
from pocketvit.compress.cast import Fp16, fp16
from pocketvit.compress.onnxruntime_int8 import StaticInt8, static_int8
from pocketvit.compress.openvino_int8 import NncfInt8, nncf_int8
from pocketvit.compress.step import Context
from pocketvit.errors import PocketvitError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.models.trained import Trained
from pocketvit.runtimes import RUNTIMES, Session, open_session
from pocketvit.runtimes.openvino import capabilities
from pocketvit.runtimes.probe import probe
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.environment import environment
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import PIXELS, Pixels
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model

SHIPPED, WHOLE, FFDNET = "shipped", "whole", "ffdnet"


@dataclass(frozen=True)
class WholeImage:
    """A file for whole images behind the least that uint8 in and uint8 out can cost; timed like a model."""

    session: Session

    def prepare(self, image: Pixels) -> Pixels:
        return read_image(image)

    def infer(self, prepared: Pixels) -> dict[str, Any]:
        return self.session.run({PIXELS: prepared[None]})

    def finish(self, raw: Mapping[str, Any]) -> Any:
        return TASKS["restore"].finish(raw, ())


@dataclass(frozen=True, eq=False)
class Entry:
    """A file to time, whose it is, and how it is called."""

    side: str
    key: str
    file: str
    watch: Stopwatch


def shipped(name: str, threads: int, image: Pixels) -> Iterator[Entry]:
    """The variants of an artifact as ``predict`` runs them."""
    artifact = read_artifact(name)
    for variant in artifact.manifest.variants:
        target = Target(variant.runtime, variant.precision, threads, variant.device)
        file, size = artifact.path / variant.path, artifact.manifest.preprocess.size
        if runs(f"{name}/{variant.path}", file, target, size):
            model = pocketvit.load(name, target)
            cut = model.tile(*image.shape[:2])
            tiles = f"{model.count_runs(*image.shape[:2])} tiles of {cut[1]}x{cut[0]}" if cut else "whole"
            yield Entry(SHIPPED, variant.key, f"{name}/{variant.path}, {tiles}", Stopwatch(model, image))


def whole(trained: Trained, side: str, threads: int, image: Pixels, folder: Path) -> Iterator[Entry]:
    """A network exported for the whole image, in every precision that this machine can run."""
    size = trained.preprocess.size
    for built in files_of(trained, folder, side, [image] * 2):
        target = Target(built.runtime, built.precision, threads)
        if runs(built.path.name, built.path, target, size):
            watch = Stopwatch(WholeImage(open_session(built.path, target)), image)  # type: ignore[arg-type]
            yield Entry(side, built.key, f"{built.path.name}, one run of {size[1]}x{size[0]}", watch)


def files_of(trained: Trained, folder: Path, stem: str, images: Sequence[Pixels]) -> list[Built]:
    """Every file of one model: fp32, int8 with every layer quantised (attention's products left out) and the lower
    float precisions that this machine computes in, in both engines."""
    onnx, openvino = (
        exporter(name)(pixel_model_of(trained), trained.preprocess.size, folder, stem) for name in ("onnx", "openvino")
    )
    context = Context(images, folder, max_change=1e9)
    settings = StaticInt8(max_error=1e9, smooth=(), compensate=False)
    found = [onnx, openvino, next(static_int8(settings, onnx, context)).built]
    try:
        int8 = [next(nncf_int8(NncfInt8(products=False), openvino, context)).built]
    except PocketvitError as error:
        print(f"left out: openvino:int8 of {stem}: {error.what}")
        int8 = []
    lower = set(RUNTIMES["openvino"].precisions("cpu"))
    found += [*int8, *(replace(file, precision="int8-bf16") for file in int8 if "int8-bf16" in lower)]
    if "bf16" in lower:
        found.append(replace(openvino, precision="bf16"))
    if "FP16" in capabilities():  # elsewhere fp16 is float32 arithmetic on smaller files
        found.append(fp16(Fp16(), openvino, context).built)
    return found


def runs(name: str, path: Path, target: Target, size: tuple[int, int]) -> bool:
    """Whether this machine can run a file; it is first run in a process of its own, where its engine may crash."""
    try:
        probe(path, target, size)
    except PocketvitError as error:
        print(f"left out: {name} in {target}: {error.what}")
        return False
    return True


def ratio(name: str, ours: Sequence[Entry], theirs: Sequence[Entry], times: Mapping[Entry, Timing]) -> str:
    """A line with the fastest of the one against the fastest of the other, round by round."""
    if not ours or not theirs:
        return f"{name}: one side has no file that runs here"
    mine, other = (min(side, key=lambda entry: times[entry].p50) for side in (ours, theirs))
    found = speedup(times[other], times[mine])
    low, high = found.ci95
    names = [f"{entry.file.partition(',')[0]} in {entry.key}" for entry in (mine, other)]
    return f"{name}: {names[0]} is {found.p50:.2f} times as fast as {names[1]} (95 % interval {low:.2f} to {high:.2f})"


def show(title: str, side: str, times: Mapping[Entry, Timing]) -> None:
    """The files of one side and FFDNet's, and how they compare."""
    ours, theirs = ([entry for entry in times if entry.side == wanted] for wanted in (side, FFDNET))
    print(f"\n{title}\n{'file':58s} {'variant':17s} {'p50 ms (95 % interval)':>26s} {'p90':>7s} {'engine p50':>10s}")
    for entry in (*ours, *theirs):
        timing, engine = times[entry], np.median([parts[1] for parts in entry.watch.parts[WARMUP:]])
        low, high = timing.ci95
        middle = f"{timing.p50:.1f} ({low:.1f} to {high:.1f})"
        spread = "  (wide spread)" if timing.wide else ""
        print(f"{entry.file:58s} {entry.key:17s} {middle:>26s} {timing.p90:7.1f} {engine:10.1f}{spread}")
    for name, precision in (("fp32 against fp32", "fp32"), ("best precision against best precision", "")):
        fit = [[x for x in entries if not precision or x.key.endswith(f":{precision}")] for entries in (ours, theirs)]
        print(ratio(name, *fit, times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="denoise-color", help="shipped artifact with a checkpoint of its name")
    parser.add_argument("--image", help="photograph; by default a 481x321 cut of scikit-image's astronaut")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, for all files together")
    arguments = parser.parse_args()
    image = read_image(arguments.image or skimage.data.astronaut()[:321, :481])
    size = image.shape[:2]
    tiles = {"resize": "tile", "size": list(size), "mean": [0, 0, 0], "std": [1, 1, 1]}
    ffdnet = load_recipe(None, {"model.name": "dense_ffdnet", "task.name": "restore", "preprocess": tiles})
    networks = {FFDNET: new_model(ffdnet, ()), WHOLE: at_size(load_checkpoint(arguments.artifact), size)}
    networks = {side: replace(x, preprocess=replace(x.preprocess, multiple=0)) for side, x in networks.items()}
    with tempfile.TemporaryDirectory() as folder:
        entries = list(shipped(arguments.artifact, arguments.threads, image))
        for side, trained in networks.items():
            entries += whole(trained, side, arguments.threads, image, Path(folder))
        busy = quiet(0)
        calls = {str(index): entry.watch for index, entry in enumerate(entries)}
        timings = interleave(calls, seconds=arguments.seconds, warmup=WARMUP, pause_ms=5)
    times = dict(zip(entries, timings.values(), strict=True))
    rounds = len(next(iter(times.values())).times_ms)
    print(f"\none {size[1]}x{size[0]} photograph, decoded; uint8 in, rounded uint8 out; {arguments.threads} threads,")
    print(f"{rounds} rounds in which all files took turns; 'engine': of that the file's runs, with tiles blended")
    title = (
        f"TABLE 1: the shipped artifact {arguments.artifact} as predict runs it; FFDNet's layers (random weights) whole"
    )
    show(title, SHIPPED, times)
    show(f"TABLE 2: the network of {arguments.artifact} exported for this one size (NOT shipped)", WHOLE, times)
    print(f"\n{machine_was(busy)}")
    print(json.dumps(environment()))


if __name__ == "__main__":
    main()
