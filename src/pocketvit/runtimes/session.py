"""What engines have in common: the session they open, and the record that tells them apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, VerificationError
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target


@dataclass(frozen=True)
class SessionInfo:
    """What a session reports about itself; copied into benchmark rows."""

    engine: str
    version: str
    precision: str
    threads: int
    device: str
    coverage: dict[str, float]
    """Share of the graph's nodes each execution provider took; empty where the engine does not tell."""

    @classmethod
    def of(cls, target: Target, version: str, coverage: dict[str, float] | None = None, note: str = "") -> SessionInfo:
        """Of a session for ``target``, which ran all of the graph there where ``coverage`` does not say otherwise."""
        device = target.device.upper()
        coverage = {device: 1.0} if coverage is None else coverage
        return cls(target.runtime, version, target.precision, target.threads, device + note, coverage)


@dataclass(frozen=True)
class Port:
    """Shape and NumPy dtype of an input or output as the opened file declares it."""

    shape: tuple[int, ...] | None
    """-1 is a free dimension, ``None`` an unknown shape."""
    dtype: str


class Session(Protocol):
    """A loaded model file. It may be called from many threads at once."""

    info: SessionInfo
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the model on (1, H, W, 3) uint8 pixels, of a tail on (1, tokens, width) float32 features, and return its
        outputs by name; the arrays are the caller's own.

        Raises:
            DataError: an input is missing, unknown, or of another shape or dtype.
            VerificationError: the engine fails on the file.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """An engine: a row of ``pocketvit.runtimes.RUNTIMES``. Reading it imports no engine; calling its functions does."""

    name: str
    package: str
    """The Python package that it needs."""
    extra: str
    """Extra of pocketvit that installs the package; empty where the base install does."""
    format: str
    """What ``export`` calls its files."""
    suffix: str
    writer: str
    """``module:function`` of ``write(pixel_model, size, folder, stem) -> Built``; a text, since export lies above."""
    open: Callable[[Path, Target, Manifest | None], Session]
    devices: Callable[[], tuple[str, ...]]
    """Devices that this machine offers, none where files of this kind cannot run here. Called only where installed."""
    precisions: Callable[[str], tuple[str, ...]]
    """Precisions that this machine runs on a device."""
    damage: Callable[[Sequence[Path]], None]
    """Zero the middle of every weight of a copied file and its companions, in place; verification must notice."""
    engine_precisions: tuple[str, ...] = ()
    """Precisions that are a setting of the engine on the fp32 file and need no file of their own."""
    named_outputs: bool = True
    """Whether files keep the names of their outputs; otherwise their order counts."""
    risky: bool = False
    """Seen to end the process on files that are valid: files are first run in a process of their own."""
    reads: Callable[[Path], Sequence[str]] = lambda path: ()
    """Names of the files that the engine reads beside a file, as the file itself states them; they may be anything."""
    is_code: bool = False
    """Its files are programs that may do anything: those of other people are opened only where the user says so."""
    thread_safe: bool = True
    """Whether its sessions may run from many threads at once; otherwise they are run one at a time."""


class OneAtATime:
    """A session of an engine that is not thread-safe."""

    def __init__(self, session: Session) -> None:
        self.info, self.inputs, self.outputs = session.info, session.inputs, session.outputs
        self._session, self._lock = session, threading.Lock()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`Session`."""
        with self._lock:
            return self._session.run(inputs)


def check_inputs(ports: Mapping[str, Port], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise ``DataError`` unless ``inputs`` are exactly what ``ports`` declare. Engines would cast or crash instead.

    Raises:
        DataError: names the input, what it is and what was expected.
    """
    todo = "Give " + ", ".join(f"{name}: {port.dtype} {port.shape}" for name, port in ports.items()) + "."
    if set(inputs) != set(ports):
        raise DataError(f"inputs {sorted(inputs)} given, {sorted(ports)} expected.", todo)
    for name, port in ports.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray) or str(array.dtype) != port.dtype:
            got = getattr(array, "dtype", type(array).__name__)
            raise DataError(f"input {name}: expected {port.dtype} {port.shape}, got {got}.", todo)
        want, have = port.shape, array.shape
        if want is not None and (len(want) != len(have) or any(w not in (-1, h) for w, h in zip(want, have))):
            raise DataError(f"input {name}: expected shape {want}, got {have}.", todo)


def cannot_open(path: Path, engine: str, why: BaseException | str) -> VerificationError:
    """The error for a file that an engine refuses."""
    todo = "Export the artifact again, or copy it again."
    return VerificationError(f"{path}: {engine} cannot open it ({_first_line(why)}).", todo)


def cannot_run(engine: str, error: BaseException) -> VerificationError:
    """The error for an engine that fails on a file it has opened."""
    todo = "Run `pocketvit verify`, or take another variant."
    return VerificationError(f"{engine} fails on its file ({_first_line(error)}).", todo)


def _first_line(error: BaseException | str) -> str:
    """The most telling line of an engine's error, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines[0] if lines else type(error).__name__)[:160]


def zero_in_file(file: Path, regions: Sequence[tuple[int, int]]) -> None:
    """:func:`zero_middles` of a file, in place."""
    content = bytearray(file.read_bytes())
    zero_middles(content, regions)
    file.write_bytes(content)


def zero_middles(content: bytearray, regions: Sequence[tuple[int, int]]) -> None:
    """Zero the middle half of each region (first byte, end) in whole groups of 4 bytes; too short ones stay."""
    for low, high in ((low, min(high, len(content))) for low, high in regions):
        quarter = (high - low) // 16 * 4
        if quarter > 0:
            content[low + quarter : high - quarter] = bytes(high - low - 2 * quarter)
