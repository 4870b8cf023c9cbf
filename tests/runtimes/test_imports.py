"""What a small device pays for: import time, and no torch behind any of the small-device packages."""

from __future__ import annotations

import subprocess
import sys

SMALL = (
    "pocketvit.spec.artifact",
    "pocketvit.runtimes.model",
    "pocketvit.verify.command",
    "pocketvit.verify.evaluate",
    "pocketvit.bench.command",
    "pocketvit.serve.predict",
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("numpy", "torch", "onnxruntime", "pydantic", "rich")
    code = (
        "import time; t = time.process_time(); import pocketvit; d = time.process_time() - t; "
        f"import sys; print(d, *(m for m in {heavy!r} if m in sys.modules))"
    )
    seconds, *imported = min((python(code) for _ in range(3)), key=lambda line: float(line.split()[0])).split()
    assert imported == []
    assert float(seconds) < 0.3


def test_small_device_modules_import_no_torch_and_no_engine() -> None:
    heavy = ("torch", "torchvision", "timm", "lightning", "openvino", "onnxruntime", "onnx", "skimage", "rich")
    assert python(f"import {', '.join(SMALL)}, sys; print(*(m for m in {heavy!r} if m in sys.modules))") == ""


def test_one_engine_is_opened_without_the_others() -> None:
    code = "import pocketvit, sys; pocketvit.load('denoise-color', 'onnxruntime:fp32')"
    assert python(f"{code}; print(*(m for m in ('torch', 'openvino') if m in sys.modules))") == ""


def test_engines_send_nothing_to_their_makers() -> None:
    """With OpenVINO's telemetry each import and each conversion would be sent; here a stub takes its place."""
    code = "import pocketvit.runtimes, sys, openvino, nncf; from openvino.tools.ovc import telemetry_utils as found; "
    code += "print(found.tm.__name__, *(name for name in sys.modules if name.startswith('openvino_telemetry.')))"
    assert python(code).splitlines()[-1] == "openvino.tools.ovc.telemetry_stub"
