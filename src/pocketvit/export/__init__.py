"""Trained model -> files of an artifact, one module per format."""

from pocketvit.commands import make_callable

make_callable(__name__)
