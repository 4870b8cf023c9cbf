"""What one photo of 64 megapixels costs ``predict`` in memory, above the process that waits for it.

Runs ``pocketvit predict`` in a fresh process: once on a small picture, so that engine and codecs are warm, then on an
8000x8000 one. Prints the resident memory before, the peak (``VmHWM``, started anew in between), and the difference as a
multiple of the photo's bytes (3 a pixel). Decoding, turning, tiling and writing count. Linux only.

    python benchmarks/memory_64mp.py [--artifact denoise-color] [--format png] [--side 8000] [--target ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvit.bench.memory import synthetic
from pocketvit.runtimes import footprint
from pocketvit.serve import predict as serve


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (the peak) of this process in MB."""
    return footprint.resident(field) / 1e6


def measure(artifact: str, target: str | None, photo: Path, out: Path) -> tuple[float, float]:
    """Resident MB before and at the peak of one photo. The model is loaded once, as one run of predict does."""
    model = serve.load(artifact, target)
    serve.load = lambda *_, **__: model
    small = photo.with_name(f"small{photo.suffix}")
    Image.fromarray(synthetic((300, 400))).save(small)
    serve.predict(artifact, [str(small)], out=str(out / "small.png"))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    report = serve.predict(artifact, [str(photo)], out=str(out / "photo.png"))
    if report.exit_code:
        sys.exit(report.failures[0].reason)
    return before, resident("VmHWM")


def main() -> None:
    """Print the three figures, one to a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", default="denoise-color")
    parser.add_argument("--target")
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--side", type=int, default=8000, help="of the square photo, in pixels")
    parser.add_argument("--photo", type=Path, help=argparse.SUPPRESS)  # the fresh process gets it
    arguments = parser.parse_args()
    if arguments.photo:
        before, peak = measure(arguments.artifact, arguments.target, arguments.photo, arguments.photo.parent / "out")
        size = 3 * arguments.side**2 / 1e6
        print(f"photo {size:.0f} MB\nbefore {before:.0f} MB\npeak {peak:.0f} MB\nratio {(peak - before) / size:.2f}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        photo = Path(scratch) / f"photo.{arguments.format}"
        pixels = synthetic((arguments.side, arguments.side))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, as phones write upright photos
        Image.fromarray(np.ascontiguousarray(pixels)).save(photo, exif=exif)
        subprocess.run([sys.executable, *sys.argv, "--photo", str(photo)], check=True)


if __name__ == "__main__":
    main()
