"""What the fault tests share: small data and recipes, and commands in processes that start at once (forked)."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Imported before forking: a process that starts in no time is killed at work, and not while it imports.
_COMMANDS = ("pocketvit.fit.run", "pocketvit.export.command", "pocketvit.serve.predict", "pocketvit.verify.command")
_LATE = (
    "onnx.reference",
    "onnxscript.optimizer",
    "matplotlib.backends.backend_svg",
    "alembic.command",
    "sqlalchemy.orm",
)
torch.set_num_threads(1)  # a fork has none of the threads of its parent
for _name in ("onnxruntime", *_COMMANDS, *_LATE):
    importlib.import_module(_name)
# The first export of a process takes longer than all the rest of a small fit.
_net = importlib.import_module("tests.export.nets").classifier()
_pixels = importlib.import_module("pocketvit.export.artifact").pixel_model_of(_net)
importlib.import_module("pocketvit.export.onnx").capture(_pixels, _net.preprocess.size)
importlib.import_module("pocketvit.train.fabric").fabric_class()
run_command = importlib.import_module("pocketvit.cli").main
helpers = importlib.import_module("tests.train.helpers")


def write_recipe(folder: Path, epochs: int) -> Path:
    """Three classes of small images, and a recipe whose result depends on nothing but the seed."""
    recipe = helpers.classify_recipe(
        helpers.write_classes(folder / "photos", per_class=12),
        **{
            "train.epochs": epochs,
            "train.threads": 1,
            "train.checkpoint_steps": 1,
            "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.05, "quiet_seconds": 0},
            "compress": {"steps": [], "library_default": False},
            "floor": {"value": 0},
        },
    )
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    return file


def start(args: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run a command in a forked process after ``prepare``; its output goes to ``log``. Returns the process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        prepare()
        code = run_command([*args, "--quiet"])
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """How the process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
