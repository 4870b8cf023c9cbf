"""The checks of an artifact, in order: files, preprocessing, goldens, then each variant: opening, shapes, parity, negative controls."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import Port, check_target, open_session
from pocketvit.runtimes.model import Model, default_target, open_variant
from pocketvit.runtimes.probe import probe
from pocketvit.spec import parity
from pocketvit.spec.artifact import GOLDEN, Artifact, Golden, file_fault, read_golden
from pocketvit.spec.manifest import TensorSpec, Variant
from pocketvit.spec.preprocess import Pixels, Preprocess, prepare
from pocketvit.spec.target import Target
from pocketvit.verify import perturb

TELLING = 2.0
"""By how much wrong inputs must move the answers away from the goldens to be told from the file's own rounding."""


@dataclass(frozen=True)
class Check:
    """One check and what it found."""

    name: str
    passed: bool
    """False only where something is wrong; a skipped check has nothing against it."""
    detail: str
    variant: str = ""
    """``runtime:precision``, empty for checks of the artifact as a whole."""
    figures: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {"figures": dict(self.figures)}


def run_checks(
    artifact: Artifact,
    target: Target | None = None,
    *,
    negative_controls: bool = True,
    on_check: Callable[[], None] = lambda: None,
) -> list[Check]:
    """Run all checks; where the files themselves are damaged, nothing behind that is tried.

    Args:
        artifact: from :func:`pocketvit.spec.artifact.read_artifact`.
        target: the one variant to check; ``None`` takes all, and skips those this machine cannot run.
        negative_controls: also try damaged weights and wrong preprocessing, which must fail.
        on_check: called after each check.

    Raises:
        UsageError, MissingDependencyError: this machine cannot run ``target``, or any variant.
    """
    done: list[Check] = []
    # Generators: a stage does nothing before the ones ahead of it have passed.
    for stage in (check_files(artifact), _golden_stage(artifact), check_variants(artifact, target, negative_controls)):
        for check in stage:
            done.append(check)
            on_check()
        if not all(check.passed for check in done):
            break
    return done


def check_files(artifact: Artifact) -> Iterator[Check]:
    """Every file of the manifest is there with its size and checksum, and every file a variant needs is in the manifest."""
    listed = {entry.path for entry in artifact.manifest.files}
    for entry in artifact.manifest.files:
        fault = file_fault(artifact.path, entry)
        yield Check(f"file {entry.path}", not fault, fault or f"{entry.bytes} bytes, sha256 as listed")
    needed = {GOLDEN, *(name for v in artifact.manifest.variants for name in (v.path, *v.companions))}
    for name in sorted(needed - listed):
        yield Check(f"file {name}", False, f"{name} is needed but not listed in the manifest")


def _golden_stage(artifact: Artifact) -> Iterator[Check]:
    try:
        golden = read_golden(artifact)
    except VerificationError as error:
        yield Check("goldens", False, error.what.rstrip("."))
        return
    yield check_preprocess(artifact.manifest.preprocess, golden.preprocess)
    yield check_golden_shapes(artifact, golden)
    yield check_sources(artifact.manifest.preprocess, golden)


def check_preprocess(stated: Preprocess, used: Preprocess) -> Check:
    """The manifest's preprocessing is the one that the goldens were made with."""
    for item in dataclasses.fields(Preprocess):
        mine, theirs = getattr(stated, item.name), getattr(used, item.name)
        if mine != theirs:
            return Check(
                "preprocessing",
                False,
                f"preprocess.{item.name} in the manifest is {mine}, the golden outputs were made with {theirs}",
            )
    return Check("preprocessing", True, "the manifest's is the one the goldens were made with")


def check_golden_shapes(artifact: Artifact, golden: Golden) -> Check:
    """Names, shapes and dtypes of the goldens fit the manifest, and they hold no NaN."""
    manifest, count = artifact.manifest, len(golden.inputs)
    wrong = []
    if count == 0 or golden.inputs.dtype != np.uint8 or golden.inputs.shape[1:] != (*manifest.preprocess.size, 3):
        wrong.append(
            f"the golden inputs are {golden.inputs.dtype} {golden.inputs.shape}, not uint8 (N, {manifest.preprocess.size[0]}, {manifest.preprocess.size[1]}, 3)"
        )
    if set(golden.outputs) != {x.name for x in manifest.outputs}:
        wrong.append(
            f"the goldens hold outputs {sorted(golden.outputs)}, the manifest names {sorted(x.name for x in manifest.outputs)}"
        )
    for spec in manifest.outputs:
        value = golden.outputs.get(spec.name)
        if value is not None and value.shape != (count, *spec.shape[1:]):
            wrong.append(f"golden output {spec.name} is {value.shape}, not {(count, *spec.shape[1:])}")
        elif value is not None and not np.isfinite(value).all():
            wrong.append(f"golden output {spec.name} holds NaN or infinity")
    if len(golden.truth) != count:
        wrong.append(f"{len(golden.truth)} ground truths for {count} golden inputs")
    return Check("goldens", not wrong, "; ".join(wrong) or f"{count} inputs with ground truth")


def check_sources(spec: Preprocess, golden: Golden) -> Check:
    """Preprocessing the stored source images here gives the stored model inputs, pixel for pixel."""
    name = "golden pixels"
    if spec.resize == "tile" or not golden.sources:
        return Check(
            name,
            True,
            "images keep their resolution" if spec.resize == "tile" else "the goldens hold no source images",
            skipped=True,
        )
    for index, source in enumerate(golden.sources):
        try:
            made = prepare(source, spec)
        except DataError as error:
            return Check(name, False, f"golden source {index}: {error.what.rstrip('.')}")
        if made.shape != golden.inputs[index].shape:
            return Check(
                name,
                False,
                f"golden source {index} becomes {made.shape}, the stored input is {golden.inputs[index].shape}",
            )
        difference = np.abs(made.astype(np.int16) - golden.inputs[index])
        if difference.any():
            return Check(
                name,
                False,
                f"preprocessing golden source {index} differs from the stored input by up to {difference.max()} in {np.count_nonzero(difference)} values",
            )
    return Check(name, True, f"{len(golden.sources)} source images give the stored inputs exactly")


def check_variants(artifact: Artifact, target: Target | None, negative_controls: bool) -> Iterator[Check]:
    """Open and check each variant, or the one of ``target``."""
    if target is not None:
        yield from check_variant(artifact, target, negative_controls)
        return
    refusals: list[UsageError | MissingDependencyError] = []
    for variant in artifact.manifest.variants:
        try:
            yield from check_variant(artifact, default_target(artifact.manifest, variant), negative_controls)
        except (UsageError, MissingDependencyError) as error:
            refusals.append(error)
            yield Check("opens", True, f"not checked: {error.what.rstrip('.')}", variant.key, skipped=True)
    if len(refusals) == len(artifact.manifest.variants):
        raise (
            refusals[0]
            if refusals
            else UsageError(f"{artifact.path}: holds no variants.", "Export the artifact again.")
        )


def check_variant(artifact: Artifact, target: Target, negative_controls: bool) -> Iterator[Check]:
    """All checks of one variant.

    Raises:
        UsageError, MissingDependencyError: this machine cannot run it.
    """
    key = target.key
    try:
        if check_target(target).risky:
            probe(artifact.path / artifact.variant(key).path, target, artifact.manifest.preprocess.size)
        model = open_variant(artifact, target)
        limits = parity.tolerances(artifact.manifest, target.precision)
    except VerificationError as error:
        yield Check("opens", False, error.what.rstrip("."), key)
        return
    yield Check(
        "opens", True, f"{model.session.info.engine} {model.session.info.version}, {target.threads} threads", key
    )
    ports = check_ports(model, key)
    yield ports
    if not ports.passed:
        return
    golden = read_golden(artifact)
    answers = list(check_answers(model, golden, limits, key))
    yield from answers
    if negative_controls and all(check.passed for check in answers):
        yield from check_controls(artifact, model, golden, limits, key)


def check_ports(model: Model, key: str) -> Check:
    """Names, shapes and dtypes of the opened file are those of the manifest."""
    wrong = _differences("input", model.session.inputs, model.manifest.inputs) + _differences(
        "output", model.session.outputs, model.manifest.outputs
    )
    return Check("inputs and outputs", not wrong, "; ".join(wrong) or "as in the manifest", key)


def _differences(kind: str, have: Mapping[str, Port], stated: list[TensorSpec]) -> list[str]:
    if set(have) != {x.name for x in stated}:
        return [f"the file has {kind}s {sorted(have)}, the manifest names {sorted(x.name for x in stated)}"]
    return [
        f"{kind} {x.name} of the file is {have[x.name].dtype} {have[x.name].shape}, the manifest says {x.dtype} {tuple(x.shape)}"
        for x in stated
        if have[x.name] != Port(tuple(x.shape), x.dtype) and have[x.name].shape is not None
    ]


def check_answers(model: Model, golden: Golden, limits: Mapping[str, float], key: str) -> Iterator[Check]:
    """Outputs are finite and, one by one, those of the trained model within the limits; the metric on the goldens holds."""
    outputs = parity.run_goldens(model.session, golden.inputs)
    shapes = [
        f"{name} is {outputs[name].shape}, the golden {value.shape}"
        for name, value in golden.outputs.items()
        if outputs[name].shape != value.shape
    ]
    if shapes:
        yield Check("parity", False, "; ".join(shapes), key)
        return
    broken = [name for name, value in outputs.items() if not np.isfinite(value).all()]
    yield Check(
        "finite",
        not broken,
        f"output {', '.join(broken)} holds NaN or infinity" if broken else f"no NaN in {len(golden.inputs)} answers",
        key,
    )
    for name, reference in golden.outputs.items():
        figures = parity.compare(outputs[name], reference)
        wrong = parity.violations(figures, limits, parity.PER_OUTPUT)
        summary = f"max {figures['max_abs']:.3g}, mean {figures['mean_abs']:.3g}, cosine {figures['min_cosine']:.6f}"
        yield Check(
            f"parity {name}",
            not wrong,
            f"{name} differs from the trained model: {'; '.join(wrong)}" if wrong else summary,
            key,
            figures,
        )
    figures = parity.task_figures(model.manifest, outputs, golden)
    wrong = parity.violations(figures, limits, parity.PER_TASK)
    summary = f"{figures['metric']:.2f} on the goldens, {figures['metric_drop']:+.3f} lost against the trained model"
    yield Check(
        "metric", not wrong, f"the metric on the goldens fell: {'; '.join(wrong)}" if wrong else summary, key, figures
    )


def check_controls(
    artifact: Artifact, model: Model, golden: Golden, limits: Mapping[str, float], key: str
) -> Iterator[Check]:
    """What must fail: damaged weights, swapped channels, another normalisation."""
    yield _control(
        "control: damaged weights", _damaged_outcome(artifact, artifact.variant(key), model.target, golden, limits), key
    )
    if perturb.is_grey(golden.inputs):
        yield Check("control: channels swapped", True, "the goldens are grey", key, skipped=True)
    else:
        yield _control(
            "control: channels swapped",
            _wrong_input_outcome(model, golden, limits, perturb.swap_channels(golden.inputs)),
            key,
        )
    yield _control(
        "control: other normalisation",
        _wrong_input_outcome(model, golden, limits, perturb.normalise_twice(golden.inputs)),
        key,
    )


def _control(name: str, outcome: str, key: str) -> Check:
    what = name.removeprefix("control: ")
    detail = f"fails as it must ({outcome})" if outcome else f"the check could not tell {what} from the real thing"
    return Check(name, bool(outcome), detail, key)


def _damaged_outcome(
    artifact: Artifact, variant: Variant, target: Target, golden: Golden, limits: Mapping[str, float]
) -> str:
    """Why a copy with damaged weights is refused; empty if it is not. Only engines refuse: our own errors get through."""
    files = [artifact.path / name for name in (variant.path, *variant.companions)]
    with tempfile.TemporaryDirectory() as scratch:
        copy = perturb.damaged_copy(variant.runtime, files, Path(scratch))
        try:
            outputs = parity.run_goldens(open_session(copy, target, artifact.manifest), golden.inputs)
        except VerificationError as error:
            return f"it does not run: {error.what.rstrip('.')}"
    return _first(parity.parity_violations(artifact.manifest, outputs, golden, limits))


def _wrong_input_outcome(model: Model, golden: Golden, limits: Mapping[str, float], inputs: Pixels) -> str:
    """How answers to wrongly prepared inputs give themselves away; empty if they do not.

    They violate a limit, or, where the limits are loose (int8 is judged by its metric, and easy tasks survive much), they
    are at least ``TELLING`` times as far from the goldens as the answers to the right inputs.
    """
    wrong = parity.run_goldens(model.session, inputs)
    if found := parity.parity_violations(model.manifest, wrong, golden, limits):
        return found[0]
    right = parity.run_goldens(model.session, golden.inputs)
    for name, reference in golden.outputs.items():
        near, far = (parity.compare(outputs[name], reference)["mean_abs"] for outputs in (right, wrong))
        if far >= TELLING * near and far > 0:
            return f"{name} is {far / max(near, 1e-12):.1f} times as far from the trained model"
    return ""


def _first(texts: list[str]) -> str:
    return texts[0] if texts else ""
