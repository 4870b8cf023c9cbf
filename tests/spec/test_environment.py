from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pocketvit.spec import environment as module
from pocketvit.spec.environment import available_cores, environment


def test_what_is_recorded() -> None:
    env = environment()
    assert json.loads(json.dumps(env)) == env
    assert env["cpu"]
    assert env["python"] == platform.python_version()
    assert env["versions"]["numpy"] == np.__version__
    assert "onnxruntime" in env["versions"]
    assert 1 <= env["cores"] == available_cores()
    assert set(env["flags"]) <= set(module.FLAGS)


def test_the_gpu_is_named_where_torch_is_loaded_and_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert environment()["gpu"] is None
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda index: f"card {index}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert environment()["gpu"] == "card 0"


def test_flags_are_those_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Chip 7\nflags\t\t: fpu avx2 amx_tile avx512_vnni\nmodel name\t: other\n"
    )
    monkeypatch.setattr(module, "Path", lambda *_: tmp_path / "cpuinfo")
    assert module._cpu() == ("Chip 7", frozenset({"fpu", "avx2", "amx_tile", "avx512_vnni"}))


def test_without_cpuinfo_or_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda *_: tmp_path / "a" / "b" / "c" / "d" / "e")
    assert module._cpu()[0]
    assert module._cpu()[1] == frozenset()
    assert module._commit() is None


def test_commit_of_a_checkout() -> None:
    root = Path(module.__file__).parents[3]
    commit = module._commit()
    assert (commit is None) == (not (root / ".git").exists())
    if commit is not None:
        assert len(commit.removesuffix("-dirty")) >= 7
