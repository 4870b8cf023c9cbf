"""A loaded artifact as a callable: any image in, the task's typed answer out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvit.errors import DataError, MissingDependencyError, UsageError, within_memory
from pocketvit.runtimes import Session, open_session, runtime_of
from pocketvit.spec.artifact import Artifact, check_variant_files, read_artifact
from pocketvit.spec.images import ImageLike, read_image
from pocketvit.spec.manifest import Manifest, Variant
from pocketvit.spec.preprocess import PIXELS, Pixels, prepare
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Raw, Result
from pocketvit.spec.tiles import count_tiles, run_tiled

log = logging.getLogger("pocketvit")


@dataclass(frozen=True)
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

    @classmethod
    def from_file(cls, path: Path, target: Target, manifest: Manifest) -> Model:
        """Open a model file that is in no artifact yet; ``manifest`` gives task, labels and preprocessing."""
        return cls(manifest, open_session(path, target, manifest), target, path)

    @property
    def path(self) -> Path:
        """Folder of the artifact (of the file, where there is no artifact)."""
        return self.artifact.path if self.artifact is not None else self.file.parent

    def __call__(self, image: ImageLike, on_tile: Callable[[], None] | None = None) -> Result:
        """Answer for one image.

        Args:
            image: a path, a PIL image or an (H, W, 3) uint8 RGB array (see :func:`pocketvit.spec.images.read_image`).
            on_tile: called after each tile of a tiled model, for progress.

        Returns:
            The typed answer of the manifest's task, e.g. ``Restored`` or ``Classification``.

        Raises:
            DataError: the image cannot be used, or there is not enough memory for it.
        """
        with within_memory(_called(image)):
            return self.finish(self.infer(self.prepare(image), on_tile))

    def prepare(self, image: ImageLike) -> Pixels:
        """Read and preprocess: (size, 3) uint8 for a fixed-size model, the full (H, W, 3) image for a tiled one."""
        pixels = read_image(image)
        return pixels if self.tiled else prepare(pixels, self.manifest.preprocess)

    def infer(self, prepared: Pixels, on_tile: Callable[[], None] | None = None) -> Raw:
        """Raw outputs by name, with a batch dimension of 1. Tiles are run here and blended to uint8."""
        if not self.tiled:
            return self.session.run({PIXELS: prepared[None]})
        spec, name, run = self.manifest.preprocess, self.manifest.outputs[0].name, self.session.run
        image = run_tiled(lambda t: run({PIXELS: t[None]})[name][0], prepared, spec.size, spec.overlap, on_tile)
        return {name: image[None]}

    def finish(self, raw: Raw) -> Result:
        """The typed answer of raw outputs with a batch dimension of 1, by the manifest's task.

        Raises:
            DataError: an output holds NaN or infinity.
        """
        for name, value in raw.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                todo = "Take another precision, and run `pocketvit verify`."
                raise DataError(f"output {name} holds NaN or infinity.", todo)
        return TASKS[self.manifest.task].finish(raw, self.manifest.levels)

    @property
    def tiled(self) -> bool:
        """Whether images keep their resolution and are covered with tiles."""
        return self.manifest.preprocess.resize == "tile"

    def count_runs(self, height: int, width: int) -> int:
        """How many times the file runs for an image of this size."""
        spec = self.manifest.preprocess
        return count_tiles(height, width, spec.size, spec.overlap) if self.tiled else 1


def _called(image: ImageLike) -> str:
    if isinstance(image, np.ndarray | Image.Image):
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
        return f"an image of {width}x{height} pixels"
    return str(image)


def load(path_or_name: str | PathLike[str], target: str | Target | None = None) -> Model:
    """Load an artifact as a callable model.

    Args:
        path_or_name: artifact folder, run folder, ``.pvit`` file, or the name of a shipped artifact.
        target: ``runtime[:precision[:threads]][@device]``. By default the manifest's variant; where this machine cannot
            run it (engine not installed, no such instructions) the first other variant that it can, which is logged.

    Returns:
        A model that may be called from many threads at once.

    Raises:
        UsageError: no artifact there, or no such variant in it, or this machine cannot run it.
        MissingDependencyError: the engine of ``target`` is not installed.
        VerificationError: manifest or model file are damaged.
    """
    artifact = read_artifact(path_or_name)
    if target is not None:
        return open_variant(artifact, Target.parse(target) if isinstance(target, str) else target)
    default = artifact.variant()
    first: UsageError | MissingDependencyError | None = None
    for variant in (default, *(v for v in artifact.manifest.variants if v is not default)):
        try:
            model = open_variant(artifact, default_target(artifact.manifest, variant))
        except (UsageError, MissingDependencyError) as error:
            first = first or error
            continue
        if first is not None:
            name, wanted = artifact.manifest.name, default.key
            log.warning("%s: running %s instead of %s (%s)", name, model.target, wanted, first.what)
        return model
    raise first or UsageError(f"{artifact.path}: holds no variants.", "Export the artifact again.")


def default_target(manifest: Manifest, variant: Variant) -> Target:
    """How a variant is run where nobody says: with the threads it was timed with."""
    threads = next((row.threads for row in manifest.benchmarks if row.variant == variant.key), Target.threads)
    return Target(variant.runtime, variant.precision, threads, variant.device)


def open_variant(artifact: Artifact, target: Target) -> Model:
    """Open the variant of ``artifact`` that ``target`` names; the processor's file where the device has none."""
    runtime_of(target.runtime)
    variant = artifact.variant(target.key)
    check_variant_files(artifact, variant)
    file = artifact.path / variant.path
    return Model(artifact.manifest, open_session(file, target, artifact.manifest), target, file, artifact, variant)
