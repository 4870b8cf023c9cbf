"""Architectures behind one table and one protocol, their weights, and trained models on disk."""

from pocketvit.models.build import architecture, build, load_weights
from pocketvit.models.variants import VARIANTS

__all__ = ["VARIANTS", "architecture", "build", "load_weights"]
