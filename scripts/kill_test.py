"""Kill one small fit at random moments, resume it each time, and compare what it hands over with an undisturbed run.

    python scripts/kill_test.py --count 40 --seed 0

Prints a line for each kill; exit code 1 where a resumed run ends in another way or with other figures.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faults import start, wait, write_recipe

from pocketvit.spec.artifact import read_artifact


def figures(run: Path) -> tuple[Any, ...]:
    """What must not depend on kills: trained weights, validation curve, metrics of the artifact."""
    trial = next((run / "trials").iterdir())
    curve = [line.rsplit(",", 1)[0] for line in (trial / "metrics.csv").read_text().splitlines()]
    metrics = [(row.variant, row.name, row.value) for row in read_artifact(run / "artifact").manifest.metrics]
    left = sorted(p.name for p in run.iterdir() if p.name.startswith("."))
    return (trial / "best" / "model.safetensors").read_bytes(), curve, metrics, left


def undisturbed(recipe: Path, runs: Path, log: Path) -> tuple[float, tuple[Any, ...]]:
    """Seconds and figures of a run that nobody kills."""
    began = time.monotonic()
    if (code := wait(start(["fit", str(recipe), "--name", "whole", "--runs", str(runs)], log))) != 0:
        sys.exit(f"the undisturbed run ended with {code}: {log.read_text()}")
    return time.monotonic() - began, figures(runs / "whole")


def main() -> int:
    """Run the test; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    wanted = parser.parse_args()
    folder, chance, wrong, done, name = Path(tempfile.mkdtemp()), random.Random(wanted.seed), 0, 0, 0
    log, runs = folder / "log.txt", folder / "runs"
    try:
        recipe = write_recipe(folder, wanted.epochs)
        seconds, whole = undisturbed(recipe, runs, log)
        while done < wanted.count or name == 0:
            name += 1
            args = ["fit", str(recipe), "--name", f"killed{name}", "--runs", str(runs)]
            while done < wanted.count:
                after = chance.uniform(0.02, 0.6) * seconds
                pid = start(args, log)
                time.sleep(after)
                os.kill(pid, signal.SIGKILL)
                if (code := wait(pid)) != -signal.SIGKILL:  # it was faster
                    break
                done += 1
                print(f"kill {done}: {after:.2f} s into {args[3]}", flush=True)
            else:
                code = wait(start(args, log))
            same = code == 0 and figures(runs / f"killed{name}") == whole
            proven = same and wait(start(["verify", str(runs / f"killed{name}" / "artifact")], log)) == 0
            if not proven:
                wrong += 1
                print(f"WRONG: {args[3]} ended with {code}, same figures: {same}\n{log.read_text()}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{done} kills, {name} runs, {wrong} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
