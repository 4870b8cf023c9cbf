"""Photos of growing size through ``predict``: whole or in tiles, milliseconds, peak memory, and whether seams show.

python benchmarks/whole_images.py [--artifact denoise-color] [--target ...] [--memory_mb 1000]

Each size runs in a fresh process. ``above idle`` is the peak (``VmHWM``) above the process that has answered a small
picture. ``seams`` is the PSNR between the largest photo that fits whole and the same in tiles of the manifest's size
and in tiles planned for half of the memory. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pocketvit
from pocketvit.bench.memory import synthetic
from pocketvit.runtimes.footprint import resident
from pocketvit.runtimes.model import Model
from pocketvit.spec.metrics import psnr

SIZES = ((321, 481), (1000, 1500), (1500, 2000), (3000, 4000))


def measure(model: Model, height: int, width: int) -> dict[str, object]:
    """Time and memory of one photo, after a small one."""
    model(synthetic((300, 400)))
    photo, before = synthetic((height, width)), resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    model(photo)
    seconds = time.perf_counter() - began
    above = resident("VmHWM") - before + photo.nbytes
    return {"tile": model.tile(height, width), "runs": model.count_runs(height, width), "s": seconds, "MB": above / 1e6}


def seams(model: Model, limit_mb: float) -> str:
    """PSNR of tiled against whole answers on the largest 4:3 photo that fits whole."""
    width = max(w for w in range(256, 8192, 64) if model.tile(w * 3 // 4, w) is None)
    photo = synthetic((width * 3 // 4, width))
    whole = model(photo).image
    found = []
    for limit in (1.0, limit_mb / 2):
        tiled = replace(model, memory_mb=limit)
        size = tiled.tile(*photo.shape[:2])
        found.append(f"tiles of {size}: {psnr(tiled(photo).image, whole):.1f} dB")
    return f"seams at {photo.shape[1]}x{photo.shape[0]}, tiled against whole: {', '.join(found)}"


def main() -> None:
    """Print a line for each size, then the seams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="denoise-color")
    parser.add_argument("--target")
    parser.add_argument("--memory_mb", type=float)
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a fresh process is to do
    arguments = parser.parse_args()
    if arguments.job:
        model = pocketvit.load(arguments.artifact, arguments.target, memory_mb=arguments.memory_mb)
        if arguments.job == "seams":
            print(seams(model, arguments.memory_mb or 1000.0))
        else:
            print(json.dumps({"target": str(model.target), **measure(model, *json.loads(arguments.job))}))
        return
    for size in SIZES:
        job = [sys.executable, *sys.argv, "--job", json.dumps(size)]
        row = json.loads(subprocess.run(job, check=True, capture_output=True, text=True).stdout)
        how = f"{row['runs']} runs of {row['tile']}" if row["tile"] else "whole"
        speed = f"{row['s'] * 1e3:.0f} ms, {60 / row['s']:.1f} images a minute"
        print(f"{size[1]}x{size[0]} in {row['target']}: {how}; {speed}; {row['MB']:.0f} MB above idle", flush=True)
    subprocess.run([sys.executable, *sys.argv, "--job", "seams"], check=True)


if __name__ == "__main__":
    main()
