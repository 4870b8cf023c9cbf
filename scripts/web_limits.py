"""Write web/src/limits.json, the tasks' limits of golden parity for the phone app (``--check`` only compares)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pocketvit.spec.tasks import TASKS

FILE = Path(__file__).resolve().parents[1] / "web" / "src" / "limits.json"


def limits() -> str:
    """By task, whether differences are relative, and by precision the limits."""
    table = {
        name: {"relative": task.relative, "precisions": {key: dict(value) for key, value in task.tolerances.items()}}
        for name, task in TASKS.items()
    }
    return json.dumps(table, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """0, or 1 where the file is not what the tasks say."""
    if "--check" not in sys.argv:
        FILE.write_text(limits(), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != limits():
        print(f"web_limits: {FILE.name} is not what the tasks say.\nRun: .venv/bin/python scripts/web_limits.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
