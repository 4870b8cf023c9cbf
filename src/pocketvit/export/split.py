"""One trained model to two artifacts: a head for where the photo is, a tail for the server, proven alone and together.

Quantised features change answers a little. How much is measured on the goldens, with the files that are written and
through the very bytes that travel, and held against what the task allows an int8 file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.artifact import Half, create_artifact, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import check_parity, run_file
from pocketvit.export.formats import Exporter
from pocketvit.export.wrap import FeatureModel, PixelModel
from pocketvit.files import names_in, plain, scratch
from pocketvit.models.trained import Trained
from pocketvit.spec import parity
from pocketvit.spec.artifact import HALVES, check_replaceable, new_folder
from pocketvit.spec.features import decode, encode
from pocketvit.spec.golden import Golden
from pocketvit.spec.manifest import Licence, Manifest
from pocketvit.spec.split import FEATURES, HEAD_TOLERANCES, LOSSY, MEANING, Split
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import TensorSpec
from pocketvit.tasks import TORCH_TASKS


@dataclass(frozen=True)
class Cut:
    """A network in two halves, not exported yet."""

    head: Half
    tail: Half
    features: NDArray[np.float32]
    """(N, tokens, width) of the golden inputs, from the trained float network."""


@dataclass(frozen=True)
class Wire:
    """What the way from head to tail costs, over the golden photos."""

    bytes: float
    """Mean of a photo's features, as they are sent."""
    error: float
    """Mean absolute difference of a feature, as a share of the mean absolute feature."""
    answers: dict[str, float]
    """How far the joined answers are from the uncut model's, metric and share of equal decisions among them."""


@dataclass(frozen=True)
class SplitReport:
    """What was written, and how far each half and both together are from the trained model."""

    path: Path
    split: Split
    parts: dict[str, dict[str, float]]
    """``head runtime:precision`` to differences from the trained model on the goldens, and ``bytes``."""
    wire: Wire
    goldens: int
    exit_code: int = 0
    """A mismatch is raised, not reported."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        split = self.split.model_dump(mode="json", exclude={"part"})
        return plain({**vars(self), "split": split})  # type: ignore[no-any-return]

    def render(self) -> str:
        """A few lines for people."""
        split, wire = self.split, self.wire
        tokens, width = split.shape
        where = f"cut behind block {split.after} of {split.blocks}"
        lines = [f"{self.path}: head and tail, {where}, checked on {self.goldens} real images."]
        for key, row in self.parts.items():
            differences = f"largest difference {row['max_abs']:.2g}, mean {row['mean_abs']:.2g}"
            lines.append(f"  {key:25s} {row['bytes'] / 1e6:7.2f} MB   {differences}")
        size = f"{tokens} x {width} values of {split.bits} bits, deflated to {wire.bytes / 1e3:.1f} kB a photo"
        lines.append(f"  between them {size}; mean error {100 * wire.error:.1f} % of a value")
        joined = f"answers move by {wire.answers['max_abs']:.2g} at most, {wire.answers['mean_abs']:.2g} on average"
        same = wire.answers.get("min_agreement")
        lines.append(f"  together: {joined}" + ("" if same is None else f"; {same:.1f} % decide alike"))
        return "\n".join(lines)


def cutter_of(trained: Trained) -> Callable[[nn.Module, int], tuple[nn.Module, nn.Module]]:
    """What cuts networks of this task in two: ``TorchTask.halves``.

    Raises:
        UsageError: they are not cut.
    """
    record = TORCH_TASKS[trained.task.name]
    if record.halves is None:
        what = f"a network that {TASKS[trained.task.name].purpose} is not cut in two: {record.uncut}."
        raise UsageError(what, "Export it whole, without --split_at.")
    return record.halves


def halve(trained: Trained, after: int, bits: int, inputs: NDArray[np.uint8]) -> Cut:
    """Both halves of a network and its features for (N, H, W, 3) uint8 prepared photos.

    Raises:
        UsageError: this network cannot be cut there.
    """
    halves = cutter_of(trained)
    if not 2 <= bits <= 8:
        raise UsageError(f"split_bits must be at least 2 and at most 8, not {bits}.", "8 is usual.")
    front, back = (part.float().cpu().eval() for part in halves(trained.model, after))
    head_graph = PixelModel(front, trained.preprocess, lambda features, _: features, [FEATURES])
    with torch.inference_mode():
        rows = [head_graph(torch.from_numpy(np.array(image))[None]).numpy() for image in inputs]
    features = np.concatenate(rows)
    spec = TensorSpec(name=FEATURES, shape=[1, *features.shape[1:]], dtype="float32", meaning=MEANING)
    whole: Any = trained.model
    values: dict[str, Any] = {"id": identity(front, trained, after), "after": after, "bits": bits, "features": spec}
    values["blocks"] = whole.backbone.block_count
    names = pixel_model_of(trained).output_names
    answer = TORCH_TASKS[trained.task.name].graph_output
    tail_graph = FeatureModel(spec.shape, back, trained.preprocess, answer, names)
    head, tail = Half(Split(part="head", **values), head_graph), Half(Split(part="tail", **values), tail_graph)
    return Cut(head, tail, features)


def identity(head: nn.Module, trained: Trained, after: int) -> str:
    """32 hex digits that two heads share where they give the same features: of weights, preprocessing and cut."""
    digest = hashlib.sha256(f"{trained.preprocess.digest()} {after}".encode())
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:32]


def check_place(out: Path, replace_existing: bool) -> None:
    """Raise ``UsageError`` where something lies at ``out`` that is not to be replaced."""
    if not os.path.lexists(out):
        return
    if not replace_existing:
        raise UsageError(f"{out} already exists.", "Choose another folder, or pass --replace_existing.")
    if out.is_symlink() or not out.is_dir() or not set(names_in(out)) <= set(HALVES):
        raise UsageError(f"{out} is no folder of a head and a tail and is not replaced.", "Choose another folder.")
    for half in HALVES:
        check_replaceable(out / half)


def write_split(
    trained: Trained,
    out: Path,
    cut: Cut,
    golden: Golden,
    writers: Sequence[Exporter],
    *,
    name: str,
    version: str,
    main_metric: str,
    licence: Licence,
) -> SplitReport:
    """Write the artifacts ``out/head`` and ``out/tail``, both or none, each and together held against the goldens.

    ``golden`` is the whole model's; what lies at ``out`` is replaced.

    Raises:
        VerificationError: a file or the pair does not give the trained model's answers.
        DataError: the disk is full.
    """
    task = TASKS[trained.task.name]
    goldens = part_goldens(golden, cut, task.golden.max_bytes)
    limits = {"head": HEAD_TOLERANCES, "tail": task.tolerances}
    parts: dict[str, dict[str, float]] = {}
    files: dict[str, list[Built]] = {}
    about: dict[str, Any] = {"version": version, "main_metric": main_metric, "licence": licence}
    with scratch() as temporary, new_folder(out, replace=True) as folder:
        for half in (cut.head, cut.tail):
            part = half.split.part
            built = [write(half.graph, trained.preprocess.size, temporary, part) for write in writers]
            for one in built:
                relative = part == "head" or task.relative
                given: dict[str, Any] = {"relative": relative, "input_name": half.graph.input_name}
                found = check_parity(one, goldens[part], limits[part][one.precision], **given)
                parts[f"{part} {one.key}"] = found | {"bytes": float(one.bytes)}
            files[part] = built
            given = {"golden": goldens[part], "built": built, "half": half, **about}
            made = create_artifact(trained, folder / part, name=f"{name}-{part}", **given)
        wire = joined(files["head"][0], files["tail"][0], cut, golden, made.manifest)
    return SplitReport(out, cut.head.split, parts, wire, len(golden.inputs))


def part_goldens(golden: Golden, cut: Cut, max_bytes: int) -> dict[str, Golden]:
    """Goldens of head and tail from the whole model's; as many as keep the features below ``max_bytes``."""
    count = max(1, min(len(cut.features), max_bytes // cut.features[0].nbytes))
    inputs, features = golden.inputs[:count], np.ascontiguousarray(cut.features[:count])
    outputs = {name: value[:count] for name, value in golden.outputs.items()}
    nothing = np.zeros((count, 0), np.int64)
    head = replace(golden, inputs=inputs, outputs={FEATURES: features}, sources=golden.sources[:count], truth=nothing)
    tail = replace(golden, inputs=features, outputs=outputs, sources=(), truth=golden.truth[:count])
    return {"head": head, "tail": tail}


def joined(head: Built, tail: Built, cut: Cut, golden: Golden, manifest: Manifest) -> Wire:
    """Photos through the head's file, over the wire and through the tail's, against the uncut model's answers.

    Raises:
        VerificationError: they are further apart than the task allows an int8 file.
    """
    split, task = cut.tail.split, TASKS[manifest.task]
    given = run_file(head, golden.inputs, [FEATURES])[FEATURES]
    sent = [encode(one, split) for one in given]
    arrived = np.stack([decode(body, split) for body in sent])
    outputs = run_file(tail, arrived, list(golden.outputs), input_name=FEATURES)
    if wrong := parity.parity_violations(manifest, outputs, golden, task.tolerances[LOSSY]):
        what = f"features of {split.bits} bits behind block {split.after} change the answers: {'; '.join(wrong)}."
        raise VerificationError(what, "Raise --split_bits (8 at most), or cut behind another block.")
    figures = parity.compare_all(outputs, golden.outputs, task.relative)
    figures |= parity.task_figures(manifest, outputs, golden)
    error = float(np.abs(arrived - given).mean() / max(float(np.abs(given).mean()), 1e-12))
    return Wire(float(np.mean([len(body) for body in sent])), error, figures)
