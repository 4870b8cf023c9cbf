"""Does OpenVINO compute an int8 file as the file says? Asked in a process of its own, since it may crash on it.

Seen (docs/LOG.md): on a processor with AVX-512 VNNI and without AMX, attention over channels in int8 writes over memory
that is not its own. At some sizes the process ends, at others the answers are merely wrong, which no crash tells. So
the engine is held against itself: the same quantisers are computed in float, and the int8 kernels may not move the
answers of the float file much further than those do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.files import scratch
from pocketvit.runtimes.openvino import hint_of
from pocketvit.runtimes.probe import TIMEOUT_S, fresh_process
from pocketvit.spec.preprocess import PIXELS, Pixels
from pocketvit.spec.target import Target

IMAGES = 8
"""So many images are answered where a file has one size."""
SIZES = ((1.0, 1.0), (0.5, 0.75), (1.25, 1.875))
"""Shares of an image's height and width that a file for any size is tried at: the fault depends on them."""
FACTOR, SLACK = 2.0, 0.002
"""What int8 kernels may be off: so many times what quantising alone changes, and rounding, as a share of the answers'
deviation. Sound kernels stood at 1.0 times, broken ones at 2.3 to 4.4, or ended the process."""
WRONG = "its answers are"
"""In the message where answers are wrong, and not where the engine refused or ended."""
_LOWEST = -1e30

Answers = list[NDArray[np.float32]]


def check_int8(path: Path, float_path: Path, target: Target, images: Sequence[Pixels], isa: str = "") -> None:
    """Hold the answers of an int8 IR against those of its quantisers computed in float.

    Args:
        path: the int8 IR.
        float_path: the IR that it was made from.
        target: how it is to be run.
        images: (H, W, 3) uint8, model inputs of one size.
        isa: the most that the engine's kernels may use of this processor (``AVX2``: what one without VNNI would
            compute, saturation included); empty is all that it has.

    Raises:
        VerificationError: the engine crashed, hung, or gave other answers; the message says where.
    """
    todo = "Leave more of the file in float, or take another precision or runtime on this machine."
    with scratch() as folder:
        np.save(folder / "images.npy", np.stack(images[:IMAGES]))
        files = {"path": str(path), "float_path": str(float_path), "images": str(folder / "images.npy")}
        files["isa"] = isa
        try:
            run, last_words = fresh_process(__name__, {**files, "target": str(target)}, TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise VerificationError(f"openvino did not answer within {TIMEOUT_S} s on {path.name}.", todo) from error
    if run.returncode < 0:
        ended = signal.Signals(-run.returncode).name
        raise VerificationError(f"openvino crashed on {path.name} ({ended}).", todo)
    if run.returncode != 0:
        raise VerificationError(f"openvino gets {path.name} wrong: {last_words[:300]}.", todo)


def simulated(graph: Any) -> Any:
    """A copy of a quantised graph that is computed in float: behind each quantiser comes an operation that changes
    nothing and that the engine's int8 kernels do not reach over."""
    from openvino import opset13

    copy = graph.clone()
    for node in copy.get_ops():
        if node.get_type_name() == "FakeQuantize":
            readers = list(node.output(0).get_target_inputs())
            wall = opset13.maximum(node, np.float32(_LOWEST))
            for reader in readers:
                reader.replace_source_output(wall.output(0))
    return copy


def fault(core: Any, graph: Any, plain: Any, target: Target, images: Sequence[Pixels]) -> str:
    """What is wrong with the answers of a quantised graph made from ``plain``; empty where nothing is."""
    hint, twin = hint_of(target.precision), simulated(graph)
    found, exact, wanted = (
        _answers(core, each, images, how, target.threads) for each, how in ((graph, hint), (twin, hint), (plain, "f32"))
    )
    off, change = _apart(found, wanted), _apart(exact, wanted)
    # NaN is not below anything.
    if off <= FACTOR * change + SLACK * float(np.mean([each.std() for each in wanted])):
        return ""
    size = f"{images[0].shape[0]}x{images[0].shape[1]}"
    return f"at {size} {WRONG} {off:.3g} off, where quantising alone makes {change:.3g}"


def resized(image: Pixels, shares: tuple[float, float]) -> Pixels:
    """The image cut or repeated to so many times its height and width."""
    height, width = (max(1, round(length * share)) for length, share in zip(image.shape, shares))
    rows, columns = (np.arange(wanted) % have for wanted, have in zip((height, width), image.shape))
    return np.ascontiguousarray(image[rows][:, columns])


def _answers(core: Any, graph: Any, images: Sequence[Pixels], hint: str, threads: int) -> Answers:
    if graph.is_dynamic():
        graph = graph.clone()
        graph.reshape([1, *images[0].shape])
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint})
    compiled({PIXELS: images[0][None]})  # what a first run writes over, later ones read
    return [np.array(results[port]) for x in images for results in [compiled({PIXELS: x[None]})] for port in results]


def _apart(a: Answers, b: Answers) -> float:
    return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))


def _main(request: str) -> None:
    wanted = json.loads(request)
    if wanted["isa"]:  # read by oneDNN when it is loaded
        os.environ["ONEDNN_MAX_CPU_ISA"] = wanted["isa"]
    import openvino

    target, core, images = Target.parse(wanted["target"]), openvino.Core(), np.load(wanted["images"])
    graph, plain = core.read_model(wanted["path"]), core.read_model(wanted["float_path"])
    sets = [[resized(images[0], shares)] for shares in SIZES] if graph.is_dynamic() else [list(images)]
    for each in sets:
        if wrong := fault(core, graph, plain, target, each):
            sys.exit(wrong)


if __name__ == "__main__":
    _main(sys.argv[1])
