"""docs/phone.md: its commands parse, and the addresses that it names are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from pocketvit.arguments import Arguments
from pocketvit.commands import COMMANDS
from tests.serve.asking import ask
from tests.serve.phone.app import phone_app
from tests.tiny import make_tiny_artifact

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "phone.md").read_text(encoding="utf-8")


def test_its_commands_parse() -> None:
    lines = re.findall(r"^pocketvit (.+?)(?: +#.*)?$", TEXT, re.MULTILINE)
    assert lines
    for line in lines:
        name, *words = shlex.split(line)
        given = Arguments(name, COMMANDS[name].resolve(), COMMANDS[name].sections).parse(words)
        assert (given["phone"], given["tls"]) == (True, "auto")


def test_its_addresses_are_there(tmp_path: Path) -> None:
    app = phone_app(tmp_path / "app", make_tiny_artifact(tmp_path / "model").path)
    model = ask(app, "GET", "/phone/config.json").json()["models"][0]
    rows = re.findall(r"^\| `(/phone[^`]*)` \|", TEXT, re.MULTILINE)
    paths = [row.replace("NAME", model["name"]).replace("VERSION", model["version"]) for row in rows]
    found = [ask(app, "GET", path.replace("FILE", "manifest.json")).status_code for path in paths]
    assert found == [200, 200, 404, 200]
