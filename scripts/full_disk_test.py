"""Let the disk be full at many sizes in train, fit, export, predict and doctor: exit code 3, and with space it goes on.

    python scripts/full_disk_test.py --count 20

A small tmpfs is mounted for each size where this user may; otherwise the size of every file is limited. Prints a line
for each; exit code 1 where a command ended in another way, or did not go on when it had space.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from faults import start, wait, write_recipe

ENOUGH = 1 << 28


class Disk:
    """A folder whose disk takes so many bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.mounted = self._mount(ENOUGH)

    def _mount(self, size: int, option: str = "") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}", "tmpfs", str(self.folder)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def limit(self, size: int) -> Callable[[], None]:
        """Leave ``size`` bytes beside what lies there; returns what the process that writes must do first."""
        if self.mounted:
            self._mount(size + sum(-(-f.stat().st_size // 4096) * 4096 for f in self.folder.rglob("*")), "remount,")
            return lambda: None
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


def commands(place: Path, given: Path) -> dict[str, tuple[int, list[str]]]:
    """Each command that writes to ``place``, with the bytes that it needs at most."""
    recipe, photos = str(given / "recipe.yaml"), given / "photos"
    run = given / "runs" / "given"
    return {
        "train": (500_000, ["train", recipe, "--runs", str(place), "--name", "t"]),
        "fit": (1_500_000, ["fit", recipe, "--runs", str(place), "--name", "f"]),
        "export": (250_000, ["export", str(run), str(place / "artifact"), "--replace_existing"]),
        "predict": (6_000, ["predict", f"{run}/artifact", str(photos / "red"), "--out", str(place / "answers.json")]),
        "doctor": (4_000, ["doctor", str(place / "photos"), "--quarantine"]),
    }


def attempt(name: str, size: int, args: list[str], disk: Disk, log: Path) -> str:
    """What went wrong, in a few words; empty where nothing did."""
    if name == "doctor":
        (disk.folder / "photos").mkdir()
        for number in range(40):
            (disk.folder / "photos" / f"{number:0200d}.png").write_bytes(b"no image")
    code = wait(start(args, log, disk.limit(size)))
    said = log.read_text()
    disk.limit(ENOUGH)
    if code not in (0, 3) or (code == 3 and len(said.strip().splitlines()) != 2):
        return f"ended with {code}: {said[-500:]}"
    print(f"{name} with {size} bytes: {code} {said.splitlines()[0][:150] if code else ''}", flush=True)
    if code == 3 and (again := wait(start(args, log))) != 0:
        return f"did not go on with space ({again}): {log.read_text()[-500:]}"
    return ""


def main() -> int:
    """Run the test; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="sizes for each command")
    wanted = parser.parse_args()
    given, wrong, count = Path(tempfile.mkdtemp()), 0, 0
    try:
        write_recipe(given, 2)
        log = given / "log.txt"
        if wait(start(["fit", str(given / "recipe.yaml"), "--name", "given", "--runs", str(given / "runs")], log)):
            sys.exit(log.read_text())
        for name, (most, _) in commands(given, given).items():
            for number in range(wanted.count):
                size = int(most * (number + 0.5) / wanted.count)
                disk, count = Disk(given / f"disk{count}"), count + 1
                try:
                    fault = attempt(name, size, commands(disk.folder, given)[name][1], disk, log)
                finally:
                    disk.close()
                if fault:
                    wrong += 1
                    print(f"WRONG: {name} with {size} bytes {fault}", flush=True)
    finally:
        shutil.rmtree(given, ignore_errors=True)
    print(f"{count} full disks, {wrong} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
