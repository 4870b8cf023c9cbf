"""The shipped denoiser against FFDNet's layer stack: exported for whole 481x321 images, timed side by side in one run.

python benchmarks/denoiser_vs_ffdnet.py [--seconds 40]

What is timed is the engine's run on one decoded image: (1, 321, 481, 3) uint8 in, float32 pixels out, with padding, scaling,
clamping and layout inside the graph; decoding and rounding are left out for both. FFDNet has random weights, which decide no time.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from pocketvit.compress.steps import NncfInt8, StaticInt8, apply

from pocketvit.bench.timing import interleave, speedup
from pocketvit.errors import PocketvitError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.models.trained import Trained
from pocketvit.runtimes import open_session
from pocketvit.runtimes.probe import probe
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.target import Target
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model

SIZE, THREADS = (321, 481), 2


def files_of(trained: Trained, folder: Path, stem: str, images: list[np.ndarray]) -> list[Built]:
    """Every file of one model: both engines in fp32, OpenVINO in bf16, int8 of both."""
    onnx, openvino = (exporter(name)(pixel_model_of(trained), SIZE, folder, stem) for name in ("onnx", "openvino"))
    files = [onnx, openvino, Built("openvino", "bf16", openvino.path, openvino.companions)]
    files.append(
        apply(StaticInt8(max_drop=99, max_error=1e9, smooth=(), compensate=False), onnx, images, None, folder).built
    )
    files.append(apply(NncfInt8(), openvino, images, None, folder).built)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="denoise-color")
    parser.add_argument("--seconds", type=float, default=40.0)
    arguments = parser.parse_args()
    ours = load_checkpoint(arguments.checkpoint)
    ours = replace(ours, preprocess=replace(ours.preprocess, size=SIZE))
    recipe = load_recipe(
        None,
        {
            "model.name": "dense_ffdnet",
            "task.name": "restore",
            "preprocess": {"resize": "tile", "size": list(SIZE), "mean": [0, 0, 0], "std": [1, 1, 1]},
        },
    )
    ffdnet = new_model(recipe, ())
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        sessions = {}
        for label, trained in (("ours", ours), ("ffdnet", ffdnet)):
            for built in files_of(trained, Path(name), label, [image] * 2):
                target = Target(built.runtime, built.precision, THREADS)
                try:
                    probe(built.path, target, SIZE)
                    sessions[f"{label} {built.key}"] = open_session(built.path, target)
                except PocketvitError as error:
                    print(f"{label} {built.key}: cannot run here ({error.what})")
        calls = {key: (lambda s=session: s.run({"pixels": image[None]})) for key, session in sessions.items()}
        times = interleave(calls, seconds=arguments.seconds, pause_ms=5)
    for key, timing in times.items():
        print(
            f"{key:28s} p50 {timing.p50:7.1f} ms  p90 {timing.p90:7.1f}  runs {len(timing.times_ms)}{'  (wide spread)' if timing.wide else ''}"
        )
    for name, keep in (("fp32", lambda k: k.endswith("fp32")), ("best precision", lambda k: True)):
        best = {
            label: min((k for k in times if k.startswith(label) and keep(k)), key=lambda k: times[k].p50)
            for label in ("ours", "ffdnet")
        }
        ratio = speedup(times[best["ffdnet"]], times[best["ours"]])
        print(
            f"{name}: {best['ours']} is {ratio.p50:.2f}x faster than {best['ffdnet']} (95 % interval {ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
        )
    print(json.dumps(environment()))


if __name__ == "__main__":
    main()
