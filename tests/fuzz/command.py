"""The command line that the fuzzers of this folder share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path


def command(what: str | None, attack: Callable[[int, int, Path], object], count: int) -> None:
    """Call ``attack(count, seed, folder)`` with a temporary folder and print what it returns."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(attack(options.count, options.seed, Path(work)))
