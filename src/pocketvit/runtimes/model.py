"""A loaded artifact as a callable: any image in, the task's typed answer out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import RUNTIMES, Port, Session, open_session, runtime_of
from pocketvit.runtimes.order import load_order
from pocketvit.runtimes.strength import check_strength
from pocketvit.runtimes.whole import check_limit, memory_of, tile_for
from pocketvit.spec.artifact import Artifact, check_variant_files, read_artifact
from pocketvit.spec.images import ImageLike, read_image
from pocketvit.spec.manifest import Manifest, Variant
from pocketvit.spec.preprocess import Pixels, prepare
from pocketvit.spec.split import check_whole
from pocketvit.spec.target import Target, most_threads
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Raw, Result, TensorSpec
from pocketvit.spec.tiles import count_tiles, run_tiled

log = logging.getLogger("pocketvit")


@dataclass(frozen=True, repr=False)
class Model:
    """A model file in an engine together with what its manifest says about images and answers.

    ``model(image)`` is ``finish(infer(prepare(image)))``; the three parts are public so that they can be timed apart.
    All of them may be called from many threads at once.
    """

    manifest: Manifest
    session: Session
    target: Target
    file: Path
    artifact: Artifact | None = None
    """The artifact the file belongs to; ``None`` for a candidate file that is not in one yet."""
    variant: Variant | None = None
    memory_mb: float | None = None
    """What an image may take above the idle process, in MB (1e6 bytes): see :mod:`pocketvit.runtimes.whole`."""

    def __repr__(self) -> str:
        """One line: name, version, what it runs as, its input."""
        m, (height, width) = self.manifest, self.manifest.preprocess.size
        return f"<Model {m.name} {m.version}: {m.task}, {self.target}, {height}x{width} {m.preprocess.resize}>"

    @classmethod
    def from_file(cls, path: Path, target: Target, manifest: Manifest) -> Model:
        """Open a model file that is in no artifact yet; ``manifest`` gives task, labels and preprocessing."""
        return cls(manifest, open_session(path, target, manifest), target, path)

    @property
    def path(self) -> Path:
        """Folder of the artifact (of the file, where there is no artifact)."""
        return self.artifact.path if self.artifact is not None else self.file.parent

    def __call__(
        self, image: ImageLike, on_tile: Callable[[], None] | None = None, *, strength: float | None = None
    ) -> Result:
        """Answer for one image.

        Args:
            image: a path, a PIL image or an (H, W, 3) uint8 RGB array (see :func:`pocketvit.spec.images.read_image`).
            on_tile: called after each tile of an image that runs in tiles, for progress.
            strength: of a restorer, 0 to 2: 0 is the image itself, 1 or nothing the trained answer, between them a
                blend; above 1 the model runs a second time, on its own answer, and 2 is what that gives.

        Returns:
            The typed answer of the manifest's task, e.g. ``Restored`` or ``Classification``.

        Raises:
            UsageError: ``strength`` is out of its range, or the task has none; or it is half a model.
            DataError: the image cannot be used, or the answer holds NaN.
            VerificationError: the engine fails on the file, or the answer is not of the manifest's names and shapes.
        """
        check_whole(self.manifest.name, self.manifest.split)
        check_strength(self.manifest, strength)

        def answer(image: ImageLike) -> Result:
            return self.finish(self.infer(self.prepare(image), on_tile))

        adjust = TASKS[self.manifest.task].adjust
        return answer(image) if strength is None or adjust is None else adjust(read_image(image), answer, strength)

    def prepare(self, image: ImageLike) -> Pixels:
        """Read and preprocess: (size, 3) uint8 for a fixed-size model, the full (H, W, 3) image for a tiled one."""
        if not self.manifest.is_head:
            check_whole(self.manifest.name, self.manifest.split)
        pixels = read_image(image)
        with _enough_memory(pixels):
            return pixels if self.tiled else prepare(pixels, self.manifest.preprocess)

    def infer(self, prepared: NDArray[Any], on_tile: Callable[[], None] | None = None) -> Raw:
        """Raw outputs by name, with a batch dimension of 1: float32; uint8 where a tiled model's tiles were blended.

        Of a head they are its features; a tail takes features (tokens, width) float32 in place of pixels.

        Raises:
            DataError: an answer holds NaN or infinity, or there is too little memory for the image.
            VerificationError: an answer is not what the manifest says.
        """
        with _enough_memory(prepared):
            size, name = self.tile(*prepared.shape[:2]), self.manifest.outputs[0].name
            if size is None:
                return self._run(np.ascontiguousarray(prepared))
            overlap = self.manifest.preprocess.overlap
            tiles = run_tiled(lambda tile: self._run(tile)[name][0], prepared, size, overlap, on_tile)
            return {name: tiles[None]}

    def _run(self, pixels: NDArray[Any]) -> Raw:
        raw = self.session.run({self.manifest.inputs[0].name: pixels[None]})
        for spec in self.manifest.outputs:  # files can declare one shape and answer with another
            shape = raw[spec.name].shape if spec.name in raw else "missing"
            want = tuple(got if stated == -1 else stated for got, stated in zip((1, *pixels.shape), spec.shape))
            if shape != want:
                what = f"{self.file}: output {spec.name} is {shape}, the manifest says {want}."
                raise VerificationError(what, "Run `pocketvit verify`, or take another variant.")
        _check_finite(raw)  # each tile: blending rounds to 8 bits, which would hide it
        return raw

    def finish(self, raw: Raw) -> Result:
        """The typed answer of raw outputs with a batch dimension of 1, by the manifest's task.

        Raises:
            DataError: an output holds NaN or infinity.
            UsageError: it is a head, which has no answers.
        """
        if self.manifest.is_head:
            check_whole(self.manifest.name, self.manifest.split)
        _check_finite(raw)
        return TASKS[self.manifest.task].finish(raw, self.manifest.levels)

    def tile(self, height: int, width: int) -> tuple[int, int] | None:
        """Height and width of the tiles that an image of this size is covered with; ``None`` where it runs whole."""
        spec = self.manifest.preprocess
        if not self.tiled or not spec.multiple:
            return spec.size if self.tiled else None
        return tile_for((height, width), spec, memory_of(self.variant), self.memory_mb)

    @property
    def tiled(self) -> bool:
        """Whether images keep their resolution: they run whole or are covered with tiles (:meth:`tile`)."""
        return self.manifest.preprocess.resize == "tile"

    def count_runs(self, height: int, width: int) -> int:
        """How many times the file runs for an image of this size."""
        size = self.tile(height, width)
        return count_tiles(height, width, size, self.manifest.preprocess.overlap) if size else 1


@contextmanager
def _enough_memory(image: NDArray[Any]) -> Iterator[None]:
    """Too little memory is about this image and not about the run."""
    try:
        yield
    except MemoryError as error:
        what = f"an image of {image.shape[1]}x{image.shape[0]} pixels needs more memory than there is."
        raise DataError(what, "Cut it into parts, or close other programs.") from error


def _check_finite(raw: Raw) -> None:
    for name, value in raw.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            todo = "Take another precision, and run `pocketvit verify`."
            raise DataError(f"output {name} holds NaN or infinity.", todo)


def load(
    path_or_name: str | PathLike[str],
    target: str | Target | None = None,
    *,
    trust: bool = False,
    memory_mb: float | None = None,
) -> Model:
    """Load an artifact as a callable model.

    Args:
        path_or_name: artifact folder, run folder, ``.pvit`` file, or the name of a shipped artifact.
        target: ``runtime[:precision[:threads]][@device]``. By default the manifest's variant, or one that is as good
            and was timed as faster on such a processor; where this machine cannot run it (engine not installed, no such
            instructions), or it needs trust, the first other variant that it can, which is logged. ``model.target``
            says which it is.
        trust: also open files that are programs and not data (TorchScript): they may do anything on this machine.
        memory_mb: MB that a photo may take above the idle process; beyond it, it runs in tiles. 1000 by default.

    Returns:
        A model that may be called from many threads at once.

    Raises:
        UsageError: no artifact there, or no such variant in it, or this machine cannot run it, or it needs trust.
        MissingDependencyError: the engine of ``target`` is not installed.
        VerificationError: manifest or model file are damaged, or do not go together.
    """
    check_limit(memory_mb)
    artifact = read_artifact(path_or_name)
    if not isinstance(target, str | Target | None):
        raise UsageError(f"target is a {type(target).__name__}, not text.", "Write e.g. onnxruntime:fp32:2.")
    if target is not None:
        wanted = Target.parse(target) if isinstance(target, str) else target
        return replace(open_variant(artifact, wanted, trust=trust), memory_mb=memory_mb)
    default = artifact.variant()
    refused: dict[str, UsageError | MissingDependencyError] = {}
    for variant in load_order(artifact.manifest):
        try:
            model = open_variant(artifact, default_target(artifact.manifest, variant), trust=trust)
        except (UsageError, MissingDependencyError) as error:
            refused[variant.key] = error
            continue
        if why := refused.get(default.key):
            name = artifact.manifest.name
            log.warning("%s: running %s instead of %s (%s)", name, model.target, default.key, why.what)
        return replace(model, memory_mb=memory_mb)
    raise refused.get(default.key) or UsageError(f"{artifact.path}: holds no variants.", "Export the artifact again.")


def default_target(manifest: Manifest, variant: Variant) -> Target:
    """How a variant is run where nobody says: with the threads it was timed with, where this machine has them."""
    threads = next((row.threads for row in manifest.benchmarks if row.variant == variant.key), Target.threads)
    return Target(variant.runtime, variant.precision, min(threads, most_threads()), variant.device)


def open_variant(artifact: Artifact, target: Target, *, trust: bool = False) -> Model:
    """Open the variant of ``artifact`` that ``target`` names; the processor's file where the device has none.

    Raises:
        UsageError: there is no such variant, this machine cannot run it, or it is a program and ``trust`` is off.
        MissingDependencyError: its engine is not installed.
        VerificationError: a file that it reads is changed or not listed, or the file is not what the manifest says.
    """
    manifest, (variant, file) = artifact.manifest, proven_file(artifact, target, trust=trust)
    session = open_session(file, target, manifest)
    if wrong := port_faults(manifest, session):
        raise VerificationError(f"{file}: {'; '.join(wrong)}.", "Do not use it: export the artifact again.")
    return Model(manifest, session, target, file, artifact, variant)


def proven_file(artifact: Artifact, target: Target, *, trust: bool = False) -> tuple[Variant, Path]:
    """The variant that ``target`` names and its file, after all files that the engine reads were held against the
    manifest; nothing is opened yet. Raises what :func:`open_variant` does."""
    runtime, variant = runtime_of(target.runtime), artifact.variant(target.key)
    if runtime.is_code and not trust:
        raise _untrusted(artifact.manifest, variant)
    check_variant_files(artifact, variant)
    file = artifact.path / variant.path
    for name in runtime.reads(file):
        if name not in variant.companions:
            what = f"{file}: reads {name!r}, which the manifest does not list as a companion of {variant.key}."
            raise VerificationError(what, "Do not use it: nobody would notice if that file were changed.")
    return variant, file


def _untrusted(manifest: Manifest, variant: Variant) -> UsageError:
    others = [v.key for v in manifest.variants if not (v.runtime in RUNTIMES and RUNTIMES[v.runtime].is_code)]
    what = f"{manifest.name}: {variant.key} is a program, not only numbers: it may do anything on this machine."
    instead = f", or take {', '.join(others)}, which need no trust" if others else ""
    return UsageError(what, f"Give --trust (trust=True in Python) if you trust who made it{instead}.")


def port_faults(manifest: Manifest, session: Session) -> list[str]:
    """Where names, shapes and dtypes of an opened file are not those of the manifest, in a phrase each."""
    return [
        *_port_faults("input", session.inputs, manifest.inputs),
        *_port_faults("output", session.outputs, manifest.outputs),
    ]


def _port_faults(kind: str, have: Mapping[str, Port], stated: list[TensorSpec]) -> list[str]:
    if set(have) != {x.name for x in stated}:
        return [f"the file has {kind}s {sorted(have)}, the manifest names {sorted(x.name for x in stated)}"]
    return [
        f"{kind} {x.name} of the file is {port.dtype} {port.shape}, the manifest says {x.dtype} {tuple(x.shape)}"
        for x, port in ((x, have[x.name]) for x in stated)
        if port != Port(tuple(x.shape), x.dtype) and port.shape is not None
    ]
