"""Artifact -> latency, throughput, memory, size, with the environment."""

from pocketvit.commands import make_callable

make_callable(__name__)
