"""One loaded model called from many threads, on each engine: every answer held against that of a single thread.

python benchmarks/threads.py [--calls 10000] [--threads 8] [--artifact denoise-color] [--side 64]

Every float variant of the artifact that this machine can run is opened once. ``--threads`` threads share it and answer
``--calls`` images of ``--side`` pixels; an answer that is not the serial one is counted, and so is an error. The last
row calls all engines in turns from the same threads. Memory is that of this process: before the calls, after a tenth of
them, when every thread has its buffers, and at the end; from the second to the third it should not grow.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

import pocketvit
from pocketvit.bench.memory import synthetic
from pocketvit.errors import PocketvitError
from pocketvit.runtimes.model import Model
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks.base import Raw

IMAGES = 16
Call = Callable[[int], str]


def main() -> int:
    """Print a table; 1 where an answer differed or a call failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--artifact", default="denoise-color")
    parser.add_argument("--side", type=int, default=64, help="of the images; a tile of the model is run for each")
    options = parser.parse_args()
    models = list(open_models(options.artifact))
    if not models:
        print(f"{options.artifact}: none of its float variants runs here.", file=sys.stderr)
        return 2
    pictures = [np.roll(synthetic((options.side, options.side)), 17 * i, axis=(0, 1)) for i in range(IMAGES)]
    calls = {str(model.target): checked(model, pictures) for model in models}
    if len(calls) > 1:
        each = list(calls.values())
        calls["in turns"] = lambda number: each[number % len(each)](number)
    failed = 0
    head = f"{'target':24} {'calls':>7} {'wrong':>6} {'errors':>6} {'calls/s':>8}"
    print(f"{head} {'MB before':>10} {'at 1/10':>8} {'MB after':>9}")
    for name, call in calls.items():
        call(0)
        before, began = memory_mb(), time.perf_counter()
        with ThreadPoolExecutor(options.threads) as pool:
            found = list(pool.map(call, range(options.calls // 10)))
            tenth = memory_mb()
            found += pool.map(call, range(options.calls // 10, options.calls))
        rate = options.calls / (time.perf_counter() - began)
        wrong, errors = found.count("wrong"), len(found) - found.count("wrong") - found.count("")
        failed += wrong + errors
        memory = f"{before:10.1f} {tenth:8.1f} {memory_mb():9.1f}"
        print(f"{name:24} {len(found):7} {wrong:6} {errors:6} {rate:8.1f} {memory}", flush=True)
    return 1 if failed else 0


def open_models(artifact: str) -> list[Model]:
    """One model for each engine: its float32 variant with one thread, where it runs here."""
    models = []
    for variant in read_artifact(artifact).manifest.variants:
        if variant.precision == "fp32":
            try:
                models.append(pocketvit.load(artifact, f"{variant.runtime}:fp32:1"))
            except PocketvitError as error:
                print(f"{variant.key} is left out: {error.what}", file=sys.stderr)
    return models


def checked(model: Model, pictures: Sequence[Pixels]) -> Call:
    """A call that answers for one of ``pictures`` and returns ``wrong``, the error's text, or nothing."""
    prepared = [model.prepare(picture) for picture in pictures]
    serial = [model.infer(pixels) for pixels in prepared]

    def call(number: int) -> str:
        index = number % len(prepared)
        try:
            return "" if equal(model.infer(prepared[index]), serial[index]) else "wrong"
        except Exception as error:  # whatever an engine raises is what is looked for
            return repr(error)

    return call


def equal(found: Raw, expected: Raw) -> bool:
    """To the bit."""
    return all(np.array_equal(found[name], value) for name, value in expected.items())


def memory_mb() -> float:
    """Resident memory of this process in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    sys.exit(main())
