"""What every test gets: no colours, no display, a cache of its own, and few threads."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: threads of each would wait for those of the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when NumPy or torch is loaded

import pocketvit.runtimes  # noqa: F401 - before a test imports an engine: it keeps OpenVINO from telemetry
from pocketvit.bench import load
from tests.zygote import Zygote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: what runs last is short, and all processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked ``.pvit`` files of the tests do not land in the user's cache."""
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path_factory.getbasetemp() / "pocketvit-cache"))


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the machine is busy is asked before each timing; tests/bench/test_load.py looks for longer."""
    monkeypatch.setattr(load, "look", partial(load.look, 0.02))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts programs at once in which PyTorch has been imported."""
    one = Zygote()
    yield one
    one.close()


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one network three times: ``whole``, ``cut1`` and ``cut2`` (each a head and a tail)."""
    from tests.halves import write_halves

    return write_halves(tmp_path_factory.mktemp("halves"))
