"""Check that requirements.lock is what pyproject.toml and constraints.txt resolve to (``--write`` makes it so).

The lock holds names and versions only, for Python 3.11 on Linux. It is compiled with itself as a constraint, so a new
release on the index does not make it stale; a changed requirement does. ``--write --upgrade`` takes the newest.
Indexes and wheel folders configured on this machine are left out of it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
LINE = re.compile(r"^[a-z0-9][a-z0-9.-]*==[A-Za-z0-9.!]+$")
TODO = "Run: .venv/bin/python scripts/check_lock.py --write"
FLAGS = [
    *("--extra", "dev", "--python-version", "3.11"),
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-config",
    "--quiet",
]
IGNORED = (
    "UV_FIND_LINKS",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX",
    "UV_CONSTRAINT",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_RESOLUTION",
)


def uv() -> str:
    """The uv of the environment, else the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise SystemExit("check_lock: uv is not installed.\nRun: make setup")
    return found


def malformed(lock: str) -> list[str]:
    """Lines that are more than a name and a version."""
    return [line for line in lock.splitlines() if not LINE.match(line)]


def compile_lock(upgrade: bool = False) -> str:
    """The lock that the requirements resolve to now; from the local cache where the index cannot be reached."""
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    if LOCK.is_file() and not upgrade:
        constraints += ["--constraint", str(LOCK)]
    environment = {key: value for key, value in os.environ.items() if key not in IGNORED}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            uv(),
            "pip",
            "compile",
            "pyproject.toml",
            *FLAGS,
            *constraints,
            "--output-file",
            str(Path(folder) / "lock"),
        ]
        for attempt in ([], ["--offline"]):
            run = subprocess.run([*command, *attempt], cwd=ROOT, env=environment, capture_output=True, text=True)
            if run.returncode == 0:
                return (Path(folder) / "lock").read_text(encoding="utf-8")
    raise SystemExit(f"check_lock: the requirements do not resolve with this lock.\n{run.stderr.strip()}")


def main() -> int:
    """Compare or write; 1 if the lock is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write requirements.lock")
    parser.add_argument("--upgrade", action="store_true", help="with --write: take the newest versions")
    args = parser.parse_args()
    compiled = compile_lock(args.upgrade)
    if args.write:
        LOCK.write_text(compiled, encoding="utf-8")
    current = LOCK.read_text(encoding="utf-8") if LOCK.is_file() else ""
    if bad := malformed(current):
        print(f"check_lock: {LOCK.name} holds more than names and versions: {bad[0]!r}\n{TODO}")
        return 1
    if compiled != current:
        changed = sorted(set(compiled.splitlines()) ^ set(current.splitlines()))
        print(f"check_lock: {LOCK.name} is not current ({', '.join(changed[:8])}).\n{TODO}")
        return 1
    print(f"lock is current: {len(current.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
