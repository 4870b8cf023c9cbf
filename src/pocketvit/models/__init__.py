"""Architectures behind one table of variants, and loading weights into them."""

from pocketvit.models.build import build, load_weights
from pocketvit.models.variants import VARIANTS

__all__ = ["VARIANTS", "build", "load_weights"]
