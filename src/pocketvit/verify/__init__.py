"""Artifact -> pass or fail: checksums, golden parity, metric, negative controls."""

from pocketvit.commands import make_callable

make_callable(__name__)
