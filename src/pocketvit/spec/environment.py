"""The machine and the software that a figure was measured with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimddp", "i8mm", "bf16"),
)
"""Instruction sets that decide how fast int8 and bf16 are."""
LIBRARIES = ("pocketvit", "numpy", "pillow", "onnxruntime", "openvino", "torch", "onnx", "nncf")


def environment() -> dict[str, Any]:
    """Processor, GPU, instruction sets of interest, cores, operating system, versions, git commit; plain JSON types."""
    return {
        **processor(),
        "cores": available_cores(),
        "gpu": _gpu(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "git": _commit(),
    }


def processor() -> dict[str, Any]:
    """Name and instruction sets of interest: what timings on one machine and on another one must share to compare."""
    cpu, flags = _cpu()
    return {"cpu": cpu, "flags": [flag for flag in FLAGS if flag in flags]}


def available_cores() -> int:
    """Logical cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> str | None:
    """Name of the CUDA device, if PyTorch has been imported already and sees one; nothing is imported for it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda.get_device_name(0) if cuda is not None and cuda.is_available() else None


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and feature flags of the processor; Linux tells both, elsewhere only the name is known."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or fields.get("hardware") or platform.processor() or platform.machine()
    return name, frozenset((fields.get("flags") or fields.get("features") or "").split())


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def _commit() -> str | None:
    """Commit of the checkout the package runs from; ``-dirty`` where files differ; ``None`` outside a checkout."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
