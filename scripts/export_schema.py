"""Write docs/manifest.schema.json, the JSON schema of an artifact's manifest (``--check`` only compares)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pocketvit.spec.manifest import json_schema

SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "manifest.schema.json"


def schema_text() -> str:
    """The schema as it stands in the file."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def main(argv: list[str]) -> int:
    """Write the file, or with ``--check`` return 1 where it is not current."""
    if "--check" in argv:
        current = SCHEMA.is_file() and SCHEMA.read_text(encoding="utf-8") == schema_text()
        print(
            "schema is current"
            if current
            else f"{SCHEMA} is not current.\nRun: .venv/bin/python scripts/export_schema.py"
        )
        return 0 if current else 1
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(SCHEMA)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
