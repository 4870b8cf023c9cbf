"""A device that is not of this machine, in test code alone: it runs files here, and takes as long as it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.bench.remote import Rounds, Times
from pocketvit.bench.timing import Timing
from pocketvit.errors import VerificationError
from pocketvit.runtimes import Session, open_session
from pocketvit.runtimes.model import Model
from pocketvit.spec.devices import ContactConfig, Device
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import Target

DEVICE = Device("toaster", "tests.toaster:connect", "", ("onnxruntime",))


class Session_:
    """Answers a little off where the toaster is broken."""

    def __init__(self, session: Session, off: float) -> None:
        self.info = replace(session.info, engine="toast", device="TOASTER", threads=1)
        self.inputs, self.outputs = session.inputs, session.outputs
        self._session, self._off = session, off

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value + np.float32(self._off) for name, value in self._session.run(inputs).items()}


@dataclass
class Toaster:
    ms: Callable[[Model], float] = lambda model: 5.0
    off: Callable[[Path], float] = lambda file: 0.0
    refuses: Callable[[Path], bool] = lambda file: False
    opened: list[Path] = field(default_factory=list)
    timed: list[tuple[int, int]] = field(default_factory=list)
    """How many files and images of each timing."""
    memory_mb: float = 400.0
    environment: Mapping[str, Any] = field(
        default_factory=lambda: {"device": "toaster", "user_agent": "Toaster/2", "cores": 1, "engine": "toast 1"}
    )

    def open(self, file: Path, target: Target, manifest: Manifest) -> Session_:
        self.opened.append(file)
        if self.refuses(file):
            raise VerificationError(f"{file.parent.name}: the toaster has too little memory for it.", "Buy another.")
        return Session_(open_session(file, replace(target, device="cpu"), manifest), self.off(file))

    def time(self, files: Sequence[tuple[Model, Sequence[Pixels]]], rounds: Rounds) -> list[Times]:
        self.timed.append((len(files), len(files[0][1])))
        found = []
        for model, _ in files:
            spent = [self.ms(model)] * rounds.least
            parts = Timing(tuple(0.0 for _ in spent)), Timing(tuple(spent)), Timing(tuple(0.0 for _ in spent))
            found.append(Times(*parts, Timing(tuple(spent)), tuple(np.cumsum(spent).tolist())))
        return found


TOASTER = [Toaster()]
"""The one that is connected to."""


@contextmanager
def connect(contact: ContactConfig, notify: Callable[[str], None]) -> Iterator[Toaster]:
    notify("the toaster is warm")
    yield TOASTER[0]
