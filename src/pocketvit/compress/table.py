"""The table of steps. A new step is one file with a config and a function, and one row here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pocketvit.compress.binarise import Binarise, binarise
from pocketvit.compress.cast import Bf16, Fp16, bf16, fp16
from pocketvit.compress.cluster import Cluster, cluster
from pocketvit.compress.early_exit import EarlyExit, early_exit
from pocketvit.compress.fuse import Fuse, fuse
from pocketvit.compress.low_rank import Factorise, low_rank
from pocketvit.compress.merge_tokens import MergeTokens, merge_tokens
from pocketvit.compress.onnx_graph import LeanGraph, lean_graph
from pocketvit.compress.onnxruntime_dynamic import DynamicInt8, dynamic_int8
from pocketvit.compress.onnxruntime_int8 import LibraryDefaultInt8, StaticInt8, library_default_int8, static_int8
from pocketvit.compress.openvino_int8 import (
    LibraryDefaultNncf,
    NncfInt8,
    NncfInt8Bf16,
    library_default_nncf,
    nncf_int8,
    nncf_int8_bf16,
)
from pocketvit.compress.prune_structured import Prune, prune
from pocketvit.compress.prune_weights import PruneWeights, prune_weights
from pocketvit.compress.qat import Qat, qat
from pocketvit.compress.retrain import Retraining, retrain
from pocketvit.compress.step import Context, StepKind, StepReport
from pocketvit.compress.store import Store, opened, store
from pocketvit.compress.weight_only import WeightOnly, weights_onnxruntime, weights_openvino
from pocketvit.errors import UsageError, did_you_mean
from pocketvit.export.branches import folded, unfolded
from pocketvit.export.built import Built
from pocketvit.models.trained import Trained
from pocketvit.spec.typed import strict

Entry = str | Mapping[str, Any]
"""A step in a recipe: ``int8``, or ``{int8: {smooth: []}}``."""
_FLOAT = ("fp32",)
_PLAIN: dict[str, Any] = {"not_behind": ("graph",)}
"""Of steps that find layers by the nodes and names of the plain export, which ``graph`` rewrites."""
_ON_IMAGES: dict[str, Any] = {"calibrates": True}
_FLAT: dict[str, Any] = {"branches": "flat"}
_BRANCHED: dict[str, Any] = {"branches": "kept"}
_INT8: dict[str, Any] = {"starts_from": _FLOAT, "precision": "int8", "faster": 4, "smaller": 4, **_ON_IMAGES}
STEPS: list[StepKind] = [
    # int8 instructions multiply at most four times as many numbers as fp32 ones; bf16 is timed before training.
    StepKind("int8", StaticInt8, static_int8, "file", "onnxruntime", **_INT8, **_PLAIN, **_FLAT),
    StepKind("int8", LibraryDefaultInt8, library_default_int8, "file", "onnxruntime", **_INT8, baseline=True),
    StepKind("int8", NncfInt8, nncf_int8, "file", "openvino", **_INT8),
    StepKind("int8", LibraryDefaultNncf, library_default_nncf, "file", "openvino", **_INT8, baseline=True),
    # Behind int8, where it pays most; what it starts from is the newest of the two.
    StepKind("graph", LeanGraph, lean_graph, "file", "onnxruntime", ("fp32", "int8"), "", 2, 1, **_FLAT),
    StepKind(
        "int8-bf16", NncfInt8Bf16, nncf_int8_bf16, "file", "openvino", ("fp32", "int8"), "int8-bf16", 4, 4, **_ON_IMAGES
    ),
    StepKind("bf16", Bf16, bf16, "file", "openvino", _FLOAT, "bf16", 1, 1, **_BRANCHED),
    StepKind("fp16", Fp16, fp16, "file", "openvino", _FLOAT, "fp16", 1, 2, **_ON_IMAGES),
    StepKind("fp16", Fp16, fp16, "file", "onnxruntime", _FLOAT, "fp16", 1, 2, **_ON_IMAGES),
    # Multiplied with activations in 8 bits where the engine can; the rest of the file stays as it is.
    StepKind("int8-dynamic", DynamicInt8, dynamic_int8, "file", "onnxruntime", _FLOAT, "int8-dynamic", 4, 4, **_PLAIN),
    StepKind("weights", WeightOnly, weights_onnxruntime, "file", "onnxruntime", _FLOAT, "weights", 4, 8, **_PLAIN),
    StepKind("weights", WeightOnly, weights_openvino, "file", "openvino", _FLOAT, "weights", 4, 8),
    # 2 bits are a sixteenth of a float; how far the weights of a network that was pruned shrink is not known before.
    StepKind("cluster", Cluster, cluster, "file", "onnxruntime", _FLOAT, "cluster", 1, 16, **_PLAIN, **_ON_IMAGES),
    StepKind("store", Store, store, "file", "onnxruntime", faster=1, **_BRANCHED),
    # Steps on the network: how far they go is theirs to say, so candidates are given all the hope that there is.
    StepKind("prune", Prune, prune, "model", retrains=True),
    StepKind("low_rank", Factorise, low_rank, "model", retrains=True),
    StepKind("fuse", Fuse, fuse, "model", faster=2, smaller=1.1),
    StepKind("merge_tokens", MergeTokens, merge_tokens, "model", smaller=1, retrains=True),
    # Last of all: what is behind it is computed for some photos only, and no step in front can know of it.
    StepKind("early_exit", EarlyExit, early_exit, "model", retrains=True),
    # Engines compute with zeros, signs and grids as with any other floats; store and int8 make something of them.
    StepKind("prune_weights", PruneWeights, prune_weights, "model", faster=1, prepares=True, retrains=True),
    StepKind("retrain", Retraining, retrain, "model", faster=1, smaller=1, retrains=True),
    StepKind("qat", Qat, qat, "model", faster=1, smaller=1, prepares=True, retrains=True),
    StepKind("binarise", Binarise, binarise, "model", faster=1, smaller=32, prepares=True, retrains=True),
]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step of a recipe with its settings."""

    kind: StepKind
    config: Any
    repeat: int = 1
    """1 for the first step of its label, 2 for the second: no two rows have one name."""
    choice: str = ""
    """The settings that tell it from the others among which it is one: ``speedup=2``."""

    @property
    def label(self) -> str:
        """Name in tables."""
        again = f" ({self.repeat})" if self.repeat > 1 else ""
        default = " (library default)" if self.kind.baseline else ""
        return f"{self.kind.name}{' ' if self.choice else ''}{self.choice}{again}{default}"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings in plain types, for the lineage."""
        return dataclasses.asdict(self.config)


def split_entry(entry: Entry) -> tuple[str, dict[str, Any]]:
    """Name and settings of an entry of ``compress.steps``: ``int8`` or ``{int8: {smooth: []}}``.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(entry, str):
        return entry, {}
    if len(entry) == 1:
        ((name, settings),) = entry.items()
        if settings is None or isinstance(settings, Mapping):
            return str(name), dict(settings or {})
    raise UsageError(f"compress.steps: {entry!r} is no step.", "Write a name, or name: {setting: value}.")


def alternatives(entry: Entry | Sequence[Entry]) -> list[Entry]:
    """The steps of which an entry of ``compress.steps`` is one: itself, or the members of a list."""
    return [entry] if isinstance(entry, str | Mapping) else list(entry)


def plan_slots(
    entries: Sequence[Entry | Sequence[Entry]], runtime: str, *, baselines: bool = False
) -> list[list[Planned]]:
    """For each entry of a recipe the steps that exist in a runtime, of which a chain has one or none.

    With ``baselines`` each library default comes before its step.

    Raises:
        UsageError: an unknown step or setting, or a value of the wrong type (the nearest name is given), or a step
            stands behind one that it must come before (the right order is named).
    """
    slots: list[list[Planned]] = []
    seen: Counter[str] = Counter()
    for entry in entries:
        members = alternatives(entry)
        slots.append([])
        for name, settings in map(split_entry, members):
            kinds = _kinds(name, settings)
            choice = ", ".join(f"{key}={value}" for key, value in settings.items()) if len(members) > 1 else ""
            seen[name + choice] += 1
            here = [kind for kind in kinds if kind.runtime in ("", runtime) and (baselines or not kind.baseline)]
            slots[-1] += [
                Planned(kind, _configure(kind, settings), seen[name + choice], choice)
                for kind in sorted(here, key=lambda k: not k.baseline)
            ]
    _check_order(slots)
    return slots


def _check_order(slots: Sequence[Sequence[Planned]]) -> None:
    """Refuse a step behind another that it must not stand behind, in the entry before or further up."""
    for place, slot in enumerate(slots):
        earlier = [step.kind.name for before in slots[:place] for step in before]
        for step in slot:
            if wrong := next((name for name in earlier if name in step.kind.not_behind), None):
                names = list(dict.fromkeys(step.kind.name for each in slots for step in each))
                first = [name for name in names if name not in step.kind.not_behind]
                right = [*first, *(name for name in names if name not in first)]
                what = (
                    f"compress.steps: {step.kind.name} stands behind {wrong}, which rewrites the file it starts from."
                )
                raise UsageError(what, f"Write {step.kind.name} before {wrong}: [{', '.join(right)}].")


def _kinds(name: str, settings: Mapping[str, Any]) -> list[StepKind]:
    """The rows of a step's name, after its settings were found to be known."""
    kinds = [kind for kind in STEPS if kind.name == name]
    if not kinds:
        raise UsageError(f"compress.steps: unknown step {name!r}.", _nearest(name, {kind.name for kind in STEPS}))
    known = {f.name for kind in kinds for f in dataclasses.fields(kind.config)}
    if unknown := sorted(set(settings) - known):
        raise UsageError(f"compress.steps: {name} has no setting {unknown[0]!r}.", _nearest(unknown[0], known))
    return kinds


def leads_to(runtime: str, precision: str) -> bool:
    """Whether a step makes files of this precision in a runtime."""
    return any(kind.runtime == runtime and kind.precision == precision for kind in STEPS)


def _nearest(word: str, known: set[str]) -> str:
    return did_you_mean(word, known, f"Known: {', '.join(sorted(known))}.")


def _configure(kind: StepKind, settings: Mapping[str, Any]) -> Any:
    """The config of a kind with those settings that it has; one name may have other settings in another runtime."""
    names = {f.name for f in dataclasses.fields(kind.config)}
    return strict(kind.config, {k: v for k, v in settings.items() if k in names}, f"compress.steps.{kind.name}")


def attempts(step: Planned, source: Trained | Built, context: Context) -> Iterator[StepReport]:
    """Carry out one step; its input is never changed.

    Yields:
        The report of the step, and on asking again of milder versions of it, if it has any.

    Raises:
        UsageError: the step does not go with the source.
        DataError: calibration images are needed and missing.
    """
    if isinstance(source, Built):
        source = opened(source, context.folder)
        if source.varies:
            yield from _with_branches(step, source, context)
            return
    yield from _reports(step.kind.run(step.config, source, context))


def _reports(found: StepReport | Iterator[StepReport]) -> Iterator[StepReport]:
    yield from (found,) if isinstance(found, StepReport) else found


def _with_branches(step: Planned, source: Built, context: Context) -> Iterator[StepReport]:
    """A file step on a file with early exits: see ``StepKind.branches``."""
    if not step.kind.branches:
        what = f"{step.kind.name} does not look into the branches of a file with early exits."
        raise UsageError(what, "Leave one of the two steps out.")
    if step.kind.branches == "flat":
        source = unfolded(source, context.folder)
    for report in _reports(step.kind.run(step.config, source, context)):
        built = replace(report.built, varies=True)
        yield replace(report, result=folded(built) if step.kind.branches == "flat" else built)
