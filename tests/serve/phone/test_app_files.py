"""Where the built app is looked for, and that the option is one of ``serve``."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketvit.errors import UsageError
from pocketvit.serve.phone import app_files
from pocketvit.serve.phone.start import app_folder
from pocketvit.serve.serve import serve
from tests.serve.phone.app import built

ROOT = Path(__file__).resolve().parents[3]


def test_a_named_folder_must_hold_it(tmp_path: Path) -> None:
    assert app_files.find_app(str(built(tmp_path / "app"))) == tmp_path / "app"
    with pytest.raises(UsageError, match=r"index.html is missing") as caught:
        app_files.find_app(str(tmp_path))
    assert "make web" in caught.value.todo


def test_it_is_found_in_the_checkout_or_in_the_data_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_files, "__file__", str(tmp_path / "src" / "pocketvit" / "serve" / "phone" / "app_files.py"))
    with pytest.raises(UsageError, match="not built"):
        app_files.find_app()
    package = SimpleNamespace(submodule_search_locations=[str(built(tmp_path / "package"))])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package if name == app_files.PACKAGE else None)
    assert app_files.find_app() == tmp_path / "package"
    built(tmp_path / "web" / "dist")
    assert app_files.find_app() == tmp_path / "web" / "dist"


def test_only_known_kinds_of_files_are_sent(tmp_path: Path) -> None:
    table = app_files.app_files(built(tmp_path))
    assert table[""] == table["index.html"]
    assert "notes.map" not in table
    assert app_files.headers_of("assets/a.js")["Cache-Control"].endswith("immutable")


def test_phone_app_goes_with_phone(tmp_path: Path) -> None:
    assert app_folder(False, None) is None
    with pytest.raises(UsageError, match="goes with --phone"):
        serve(["denoise-photo"], phone_app=str(tmp_path))
    with pytest.raises(UsageError, match="holds no built phone app"):
        serve(["denoise-photo"], phone=True, phone_app=str(tmp_path))


def test_the_data_package_holds_the_built_app(tmp_path: Path) -> None:
    folder = built(tmp_path / "web" / "dist")
    shutil.copy(ROOT / "web" / "pyproject.toml", tmp_path / "web")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path / "web", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("pocketvit_web-*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if name.startswith(f"{app_files.PACKAGE}/")}
    assert names == {f"{app_files.PACKAGE}/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
