"""Runs and artifacts -> HTML report, plots, model card."""

from pocketvit.commands import make_callable

make_callable(__name__)
