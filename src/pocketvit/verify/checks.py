"""The checks of an artifact: files, preprocessing, goldens; of each variant: opening, shapes, parity, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.files import plain, scratch
from pocketvit.runtimes import check_target, open_session
from pocketvit.runtimes.model import Model, default_target, open_variant, proven_file
from pocketvit.runtimes.probe import probe
from pocketvit.spec import parity
from pocketvit.spec.artifact import GOLDEN, Artifact, file_fault
from pocketvit.spec.golden import Golden, contract_difference, golden_faults, read_golden
from pocketvit.spec.manifest import Manifest, Variant
from pocketvit.spec.preprocess import Preprocess, prepare
from pocketvit.spec.target import Target
from pocketvit.verify import parts, perturb

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
        return plain(vars(self))


def run_checks(
    artifact: Artifact,
    target: Target | None = None,
    *,
    negative_controls: bool = True,
    trust: bool = False,
    on_check: Callable[[], None] = lambda: None,
) -> list[Check]:
    """Run all checks; where the files themselves are damaged, nothing behind that is tried.

    Args:
        artifact: from :func:`pocketvit.spec.artifact.read_artifact`.
        target: the one variant to check; ``None`` takes all, and skips those this machine cannot run.
        negative_controls: also try damaged weights and wrong preprocessing, which must fail.
        trust: also run files that are programs (TorchScript).
        on_check: called after each check.

    Raises:
        UsageError, MissingDependencyError: this machine cannot run ``target``, or any variant.
    """
    done: list[Check] = []
    # Generators: a stage does nothing before the ones ahead of it have passed.
    variants = check_variants(artifact, target, negative_controls, trust)
    for stage in (check_files(artifact), check_limits(artifact), _golden_stage(artifact), variants):
        for check in stage:
            done.append(check)
            on_check()
        if not all(check.passed for check in done):
            break
    return done


def check_files(artifact: Artifact) -> Iterator[Check]:
    """Every listed file is there with its size and checksum, and every file that a variant needs is listed."""
    listed = {entry.path for entry in artifact.manifest.files}
    for entry in artifact.manifest.files:
        fault = file_fault(artifact.path, entry)
        yield Check(f"file {entry.path}", not fault, fault or f"{entry.bytes} bytes, sha256 as listed")
    needed = {GOLDEN, *(name for v in artifact.manifest.variants for name in (v.path, *v.companions))}
    for name in sorted(needed - listed):
        yield Check(f"file {name}", False, f"{name} is needed but not listed in the manifest")


def check_limits(artifact: Artifact) -> Iterator[Check]:
    """The limits of the manifest are none that would let another model pass."""
    for precision in dict.fromkeys(variant.precision for variant in artifact.manifest.variants):
        name = f"limits of {precision}"
        try:
            limits = parity.tolerances(artifact.manifest, precision)
            yield Check(name, True, ", ".join(f"{key} {value:g}" for key, value in limits.items()))
        except VerificationError as error:
            yield Check(name, False, error.what.rstrip("."))


def _golden_stage(artifact: Artifact) -> Iterator[Check]:
    try:
        golden = read_golden(artifact)
    except VerificationError as error:
        yield Check("goldens", False, error.what.rstrip("."))
        return
    yield check_preprocess(artifact.manifest.preprocess, golden.preprocess)
    yield check_contract(artifact.manifest, golden)
    fits = check_goldens(artifact.manifest, golden)
    yield fits
    if fits.passed:
        yield check_sources(artifact.manifest.preprocess, golden)


def check_preprocess(stated: Preprocess, used: Preprocess) -> Check:
    """The manifest's preprocessing is the one that the goldens were made with."""
    for name, mine in vars(stated).items():
        theirs = getattr(used, name)
        if mine != theirs:
            wrong = f"preprocess.{name} in the manifest is {mine}, the golden outputs were made with {theirs}"
            return Check("preprocessing", False, wrong)
    return Check("preprocessing", True, "the manifest's is the one the goldens were made with")


def check_contract(manifest: Manifest, golden: Golden) -> Check:
    """Task, labels, inputs and outputs are those that the goldens were made with."""
    name = "labels and outputs"
    if not golden.contract:
        unbound = "not bound to the goldens (made by an older version): a change of the labels would not be noticed"
        return Check(name, True, unbound, skipped=True)
    wrong = contract_difference(manifest, golden)
    return Check(name, not wrong, wrong or "the manifest's are those the goldens were made with")


def check_goldens(manifest: Manifest, golden: Golden) -> Check:
    """Names, shapes, dtypes and ranges of the goldens fit the manifest, and they hold no NaN."""
    wrong = "; ".join(golden_faults(manifest, golden))
    return Check("goldens", not wrong, wrong or f"{len(golden.inputs)} inputs with ground truth")


def check_sources(spec: Preprocess, golden: Golden) -> Check:
    """Preprocessing the stored source images here gives the stored model inputs, pixel for pixel."""
    name = "golden pixels"
    if spec.resize == "tile":
        return Check(name, True, "images keep their resolution", skipped=True)
    if not golden.sources:
        return Check(name, True, "the goldens hold no source images", skipped=True)
    for index, source in enumerate(golden.sources):
        try:
            made = prepare(source, spec)
        except DataError as error:
            return Check(name, False, f"golden source {index}: {error.what.rstrip('.')}")
        stored = golden.inputs[index]
        if made.shape != stored.shape:
            return Check(name, False, f"golden source {index} becomes {made.shape}, the stored input is {stored.shape}")
        difference = np.abs(made.astype(np.int16) - stored)
        if difference.any():
            by = f"by up to {difference.max()} in {np.count_nonzero(difference)} values"
            return Check(name, False, f"preprocessing golden source {index} differs from the stored input {by}")
    return Check(name, True, f"{len(golden.sources)} source images give the stored inputs exactly")


def check_variants(
    artifact: Artifact, target: Target | None, negative_controls: bool, trust: bool = False
) -> Iterator[Check]:
    """Open and check each variant, or the one of ``target``."""
    if target is not None:
        yield from check_variant(artifact, target, negative_controls, trust)
        return
    refusals: list[UsageError | MissingDependencyError] = []
    for variant in artifact.manifest.variants:
        try:
            yield from check_variant(artifact, default_target(artifact.manifest, variant), negative_controls, trust)
        except (UsageError, MissingDependencyError) as error:
            refusals.append(error)
            yield Check("opens", True, f"not checked: {error.what.rstrip('.')}", variant.key, skipped=True)
    if not artifact.manifest.variants:
        raise UsageError(f"{artifact.path}: holds no variants.", "Export the artifact again.")
    if len(refusals) == len(artifact.manifest.variants):
        raise refusals[0]


def check_variant(artifact: Artifact, target: Target, negative_controls: bool, trust: bool = False) -> Iterator[Check]:
    """All checks of one variant.

    Raises:
        UsageError: this machine cannot run it, or it is a program and ``trust`` is off.
        MissingDependencyError: its engine is not installed.
    """
    stage, key = "opens", target.key
    try:
        model = _open(artifact, target, trust)
        info = model.session.info
        found = f"{info.engine} {info.version}, {target.threads} threads, inputs and outputs as in the manifest"
        yield Check(stage, True, found, key)
        stage = "answers"
        limits, golden = parity.tolerances(artifact.manifest, target.precision), read_golden(artifact)
        answers = list(check_answers(model, golden, limits, key))
        yield from answers
        if negative_controls and all(check.passed for check in answers):
            yield from check_controls(artifact, model, golden, limits, key)
    except VerificationError as error:
        yield Check(stage, False, error.what.rstrip("."), key)


def _open(artifact: Artifact, target: Target, trust: bool) -> Model:
    """Open a variant, after a try in a process of its own where the engine may end the process."""
    if check_target(target).risky:
        _, file = proven_file(artifact, target, trust=trust)
        probe(file, target, artifact.manifest.preprocess.size)
    return open_variant(artifact, target, trust=trust)


def check_answers(model: Model, golden: Golden, limits: Mapping[str, float], key: str) -> Iterator[Check]:
    """Outputs are finite and those of the trained model within the limits; the metric on the goldens holds."""
    outputs = parity.run_goldens(model.session, golden.inputs, model.manifest.inputs[0].name)
    shapes = [
        f"{name} is {outputs[name].shape}, the golden {value.shape}"
        for name, value in golden.outputs.items()
        if outputs[name].shape != value.shape
    ]
    if shapes:
        yield Check("parity", False, "; ".join(shapes), key)
        return
    unsound = ", ".join(name for name, value in outputs.items() if not np.isfinite(value).all())
    found = f"output {unsound} holds NaN or infinity" if unsound else f"no NaN in {len(golden.inputs)} answers"
    yield Check("finite", not unsound, found, key)
    for name, reference in golden.outputs.items():
        figures = parity.compare(outputs[name], reference, parity.relative(model.manifest))
        found = f"max {figures['max_abs']:.3g}, mean {figures['mean_abs']:.3g}, cosine {figures['min_cosine']:.6f}"
        if wrong := "; ".join(parity.violations(figures, limits, parity.PER_OUTPUT)):
            found = f"{name} differs from the trained model: {wrong}"
        yield Check(f"parity {name}", not wrong, found, key, figures)
    if not (figures := parity.task_figures(model.manifest, outputs, golden)):
        return
    found = f"{figures['metric']:.2f} on the goldens, {figures['metric_drop']:+.3f} lost against the trained model"
    if wrong := "; ".join(parity.violations(figures, limits, parity.PER_TASK)):
        found = f"the metric on the goldens fell: {wrong}"
    yield Check("metric", not wrong, found, key, figures)
    if model.manifest.split is not None:
        figures, broken = parts.wire_figures(model, golden)
        found = f"features of {model.manifest.split.bits} bits change answers by {figures['max_abs']:.3g} at most"
        yield Check("wire", not broken, "; ".join(broken) or found, key, figures)


def check_controls(
    artifact: Artifact, model: Model, golden: Golden, limits: Mapping[str, float], key: str
) -> Iterator[Check]:
    """What must fail: damaged weights, swapped channels, another normalisation."""

    def control(what: str, outcome: str) -> Check:
        detail = f"fails as it must ({outcome})" if outcome else f"the check could not tell {what} from the real thing"
        return Check(f"control: {what}", bool(outcome), detail, key)

    yield control("damaged weights", _damaged_outcome(artifact, artifact.variant(key), model.target, golden, limits))
    if model.manifest.split is not None and not model.manifest.is_head:
        wrong = parts.strangers(golden.inputs)
        yield control("another network's features", _wrong_input_outcome(model, golden, limits, wrong))
        return
    if perturb.is_grey(golden.inputs):
        yield Check("control: channels swapped", True, "the goldens are grey", key, skipped=True)
    else:
        swapped = perturb.swap_channels(golden.inputs)
        yield control("channels swapped", _wrong_input_outcome(model, golden, limits, swapped))
    other = perturb.normalise_twice(golden.inputs)
    yield control("other normalisation", _wrong_input_outcome(model, golden, limits, other))


def _damaged_outcome(
    artifact: Artifact, variant: Variant, target: Target, golden: Golden, limits: Mapping[str, float]
) -> str:
    """Why a copy with damaged weights is refused; empty if it is not. Only engines refuse, our errors get through."""
    files = [artifact.path / name for name in (variant.path, *variant.companions)]
    with scratch() as temporary:
        copy = perturb.damaged_copy(variant.runtime, files, temporary)
        try:
            session, name = open_session(copy, target, artifact.manifest), artifact.manifest.inputs[0].name
            outputs = parity.run_goldens(session, golden.inputs, name)
        except VerificationError as error:
            return f"it does not run: {error.what.rstrip('.')}"
    return next(iter(parity.parity_violations(artifact.manifest, outputs, golden, limits)), "")


def _wrong_input_outcome(model: Model, golden: Golden, limits: Mapping[str, float], inputs: NDArray[Any]) -> str:
    """How answers to wrongly prepared inputs give themselves away; empty if they do not.

    They violate a limit, or, where the limits are loose (int8 is judged by its metric, easy tasks survive much), they
    are at least ``TELLING`` times as far from the goldens as the answers to the right inputs.
    """
    wrong = parity.run_goldens(model.session, inputs, model.manifest.inputs[0].name)
    if found := parity.parity_violations(model.manifest, wrong, golden, limits):
        return found[0]
    right = parity.run_goldens(model.session, golden.inputs, model.manifest.inputs[0].name)
    for name, reference in golden.outputs.items():
        near, far = (parity.compare(outputs[name], reference)["mean_abs"] for outputs in (right, wrong))
        if far >= TELLING * near and far > 0:
            return f"{name} is {far / max(near, 1e-12):.1f} times as far from the trained model"
    return ""
