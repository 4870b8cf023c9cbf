"""Tiny trained-model objects for export and compression tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pocketvit.models.trained import Trained
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig
from pocketvit.spec.tasks import config_of
from pocketvit.tasks.load import build_task_model
from tests.tiny import photo

LEVELS = (
    LevelSpec(name="coarse", labels=["a", "b"]),
    LevelSpec(name="fine", labels=["x", "y", "z"], parents=[0, 0, 1]),
)
SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SMALL_RESTORER = {"widths": (8, 16), "encoder": (1,), "decoder": (1,), "bottleneck": "rcw"}


@dataclass(frozen=True)
class Case:
    image: np.ndarray
    truth: np.ndarray


def classifier(vit: dict[str, object] | None = None, **preprocess: object) -> Trained:
    """``vit`` are options beside those of ``SMALL_VIT``."""
    fields = {"size": (32, 40), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), **preprocess}
    spec = Preprocess(**fields)  # type: ignore[arg-type]
    return _trained("classify", ModelConfig("vit_tiny_patch16_224", SMALL_VIT | (vit or {})), LEVELS, spec)


def restorer(size: tuple[int, int] = (33, 46)) -> Trained:
    spec = Preprocess(size=size, resize="tile", overlap=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return _trained("restore", ModelConfig("restorer_xs", SMALL_RESTORER), (), spec)


def _trained(task: str, model: ModelConfig, levels: tuple[LevelSpec, ...], spec: Preprocess) -> Trained:
    """Random weights that are loud enough for answers to depend on the image."""
    settings = config_of({"name": task})
    torch.manual_seed(0)
    net = build_task_model(model, settings, levels, spec).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=(2 if task == "classify" else 0.7) / parameter[0].numel() ** 0.5)
    return Trained(net, model, settings, levels, spec, {"minutes": 1.5, "images": 10})


def cases(task: str, count: int = 4, size: tuple[int, int] = (60, 70)) -> list[Case]:
    pictures = [photo(*size, seed=i) for i in range(count)]
    return [Case(p, np.array([i % 2, i % 3]) if task == "classify" else p) for i, p in enumerate(pictures)]


def inputs(trained: Trained, count: int = 8) -> list[np.ndarray]:
    return [photo(*trained.preprocess.size, seed=i) for i in range(count)]
