"""What a small device pays for: import time, and no torch behind any of the small-device packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

SMALL = ("pocketvit.spec.artifact", "pocketvit.runtimes.model", "pocketvit.verify.command", "pocketvit.verify.evaluate", "pocketvit.bench.command", "pocketvit.serve.predict")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_is_quick_and_imports_nothing_heavy() -> None:
    code = "import time; t = time.process_time(); import pocketvit; d = time.process_time() - t; import sys; print(d, *(m for m in ('numpy', 'torch', 'onnxruntime', 'pydantic', 'rich') if m in sys.modules))"
    seconds, *heavy = min((python(code) for _ in range(3)), key=lambda line: float(line.split()[0])).split()
    assert heavy == []
    assert float(seconds) < 0.3


@pytest.mark.parametrize("module", SMALL)
def test_small_device_modules_import_no_torch_and_no_engine(module: str) -> None:
    assert python(f"import {module}, sys; print(*(m for m in ('torch', 'torchvision', 'timm', 'lightning', 'openvino', 'onnxruntime', 'onnx', 'skimage') if m in sys.modules))") == ""
