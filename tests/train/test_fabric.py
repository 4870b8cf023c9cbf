"""Fabric comes without what it does not need, and leaves Lightning whole for those who want it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvit.train.fabric import _hollow

CODE = """
import json, sys
from pocketvit.train.fabric import fabric_class
fabric = fabric_class()(accelerator="cpu", devices=1, precision="32-true")
import torch
layer = torch.nn.Linear(2, 2)
layer, rule = fabric.setup(layer, torch.optim.SGD(layer.parameters(), 0.1))
fabric.backward(layer(torch.ones(1, 2)).sum())
fabric.clip_gradients(layer, rule, max_norm=1.0)
rule.step()
import lightning
heavy = ("torchvision", "scipy.stats", "matplotlib", "torchmetrics", "lightning.pytorch")
print(json.dumps([name for name in heavy if name in sys.modules]), lightning.fabric.Fabric is fabric_class())
"""


def test_it_is_imported_alone() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"{json.dumps([])} True"


def test_the_rest_of_a_package_comes_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tried_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "__init__.py").write_text("import tried_package.inner.deep\nvalue = 3\n")
    (folder / "inner" / "deep.py").write_text("import tried_package.inner as inner\n")
    (folder / "__init__.py").write_text("from tried_package.inner import value\nruns = [value]\n")
    monkeypatch.syspath_prepend(tmp_path)
    package = _hollow("tried_package")
    assert package is not None
    for name in ("tried_package.inner.deep", "tried_package.inner", "tried_package"):
        monkeypatch.setitem(sys.modules, name, package)
        if name != "tried_package":
            monkeypatch.delitem(sys.modules, name)
    assert importlib.import_module("tried_package.inner").value == 3
    assert "runs" not in vars(package)
    assert not hasattr(package, "__no_such_thing__")
    assert "runs" not in vars(package)
    assert package.runs == [3]
    with pytest.raises(AttributeError):
        package.no_such_thing  # noqa: B018
    assert _hollow("no_package_of_this_name") is None
