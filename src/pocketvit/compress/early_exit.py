"""Early exit: small heads behind some blocks answer the photos that are easy, the rest goes on.

BranchyNet (Teerapittayanon et al. 2016) on a network that stays as it is, as in DeeBERT's second stage (Xin et al.
2020): only the heads learn, from the labels and from the answer of the last head, on features that are computed once.
An exit answers where its largest probability reaches the threshold (shallow-deep networks, Kaya et al. 2019). The
threshold is chosen on training photos, each judged by heads that have not seen it; validation photos are only reported
on, and say as for every step whether the floor holds. The file has all exits, and an engine runs only what a photo
needs (:mod:`pocketvit.export.branches`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketvit.compress.exit_heads import Learning, Pooled, cross_fitted, fit_head, look_at
from pocketvit.compress.latency import built_of
from pocketvit.compress.retrain import digest
from pocketvit.compress.step import Context, StepReport
from pocketvit.data.cases import eval_cases
from pocketvit.errors import UsageError
from pocketvit.models.layers.exits import EarlyExits, Logits, confidence
from pocketvit.models.pixels import normalise
from pocketvit.models.replaced import replace_layers
from pocketvit.models.trained import Trained, copy_of
from pocketvit.models.vit import ViT
from pocketvit.spec.preprocess import prepare
from pocketvit.spec.recipe import MANY
from pocketvit.spec.tasks import task_of
from pocketvit.spec.typed import Range, check_ranges
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.classify import Classifier

NEVER = 2.0
"""A threshold that no confidence reaches."""
GRID = tuple(np.round(np.arange(0, 1.0005, 0.005), 3).tolist())
"""Thresholds among which one is chosen."""
SHOWN = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Thresholds of the curve, beside the chosen one."""
MILDER = 4
"""How often the accepted loss is halved where the floor is missed."""


@dataclass(frozen=True)
class EarlyExit(Learning):
    """Exits behind blocks, and how their heads are trained and their threshold is chosen."""

    exits: tuple[int, ...] = ()
    """Behind which blocks, numbered from 1; empty takes two, behind two thirds and five sixths of them: earlier ones
    answer too few photos for what their heads cost."""
    threshold: float | None = None
    """Least probability with which an exit answers; ``None`` chooses it by ``max_loss``."""
    max_loss: float = 0.5
    """Points of accuracy (finest level) that held-back training photos may lose; halved where the floor is missed."""
    hidden: int = 256
    """Width of the hidden layer of each head; 0 has none."""
    views: int = 3
    """Passes over the training photos whose features are kept: the first as in use, the others augmented as trained."""

    def __post_init__(self) -> None:
        ranges = {"exits": Range(1, 127), "threshold": Range(0, 1), "max_loss": Range(0, 100)}
        ranges |= {"epochs": Range(1, MANY), "lr": Range(0, 100, above=True), "weight_decay": Range(0, 10)}
        ranges |= {"batch_size": Range(1, 100_000), "hidden": Range(0, 8192), "views": Range(1, 1000)}
        ranges |= {"folds": Range(2, 100), "distill_weight": Range(0, 1)}
        ranges |= {"distill_temperature": Range(0, 1000, above=True)}
        check_ranges("compress.steps.early_exit", self, ranges)
        if list(self.exits) != sorted(set(self.exits)):
            what = f"compress.steps.early_exit.exits must be rising numbers of blocks, not {list(self.exits)}."
            raise UsageError(what, "Write e.g. [8, 10].")


def default_exits(depth: int) -> tuple[int, ...]:
    """Behind two thirds and five sixths of the blocks, of a shallow network one exit: (8, 10) of 12."""
    last = max(depth - 1, 1)
    return tuple(sorted({max(1, min(last, round(depth * share))) for share in (2 / 3, 5 / 6)}))


@dataclass(frozen=True)
class Point:
    """What one threshold gives on the validation photos."""

    threshold: float
    shares: tuple[float, ...]
    """Of the photos that leave at each exit, and at the end."""
    metric: float
    """The task's main metric."""
    ms: float | None
    """Mean time: what leaving at each exit takes, weighed by the shares; ``None`` where there was nothing to time."""
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return vars(self) | {"shares": list(self.shares)}


def early_exit(step: EarlyExit, trained: Trained, context: Context) -> Iterator[StepReport]:
    """A copy with exits; asked again, with a threshold that costs half as much on the held-back training photos.

    Yields:
        Reports; the notes hold the curve (``exits``, a :class:`Point` in plain types for each threshold), milliseconds
        by exit (``exit_ms``, the plain network last) and the metric of each exit alone.

    Raises:
        UsageError: no classifier on one of our ViTs, an exit that is not in front of the last block, exits that are
            there already, or no data to train on.
    """
    step = replace(step, exits=check(step, trained, context))
    network, held = with_heads(step, trained, context)
    thresholds = [step.threshold] if step.threshold is not None else _rising(step.max_loss, held)
    cases = _Cases.of(network, context)
    exit_ms = milliseconds(network, trained, context)
    for threshold in thresholds:
        result = at_thresholds(network, [threshold] * len(step.exits))
        shown = sorted({*SHOWN, threshold})
        points = tuple(cases.point(each, exit_ms, chosen=each == threshold) for each in shown)
        alone = [cases.metric(cases.forced(number)) for number in range(len(step.exits) + 1)]
        here = next(point for point in points if point.chosen)
        notes: dict[str, Any] = {
            "exits": [point.to_dict() for point in points],
            "exit_ms": exit_ms,
            "metric_alone": alone,
            "photos": len(cases.truth),
        }
        notes |= {"threshold": threshold, "held_back": held.point(threshold).to_dict()}
        told = _told(step, trained, here, exit_ms, cases)
        yield StepReport("early_exit", asdict(step), result, notes=notes, told=told)


def check(step: EarlyExit, trained: Trained, context: Context) -> tuple[int, ...]:
    """Behind which blocks the exits are; raises the ``UsageError`` that says why a network cannot have them."""
    model, name = trained.model, trained.model_spec.name
    if not isinstance(model, Classifier) or not isinstance(model.backbone, ViT):
        what = f"compress.steps.early_exit: {name} is no classifier on one of our own ViTs."
        raise UsageError(what, "Leave early_exit out; it needs blocks that can be left and a label to be sure of.")
    if isinstance(model.exits, EarlyExits):
        raise UsageError("compress.steps.early_exit: the network has exits already.", "Give the step once.")
    depth = model.backbone.block_count
    exits = step.exits or default_exits(depth)
    if exits[-1] >= depth:
        what = f"compress.steps.early_exit.exits: {exits[-1]} is not in front of the last of {depth} blocks."
        raise UsageError(what, f"Take numbers from 1 to {depth - 1}.")
    if context.data is None or context.recipe is None:
        todo = "Carry it out in a fit or compress, which have data."
        raise UsageError("compress.steps.early_exit was given no data to train its heads on.", todo)
    return exits


@dataclass(frozen=True)
class Held:
    """Training photos (each view counts), judged by heads that had not seen them. P of them, E exits."""

    confidence: NDArray[np.float32]
    """(E, P)."""
    hits: NDArray[np.bool_]
    """(E + 1, P): whether each exit, and the last head, names the finest class."""

    def point(self, threshold: float) -> Point:
        """Shares and accuracy in % at a threshold."""
        leaving = leaving_at(self.confidence, threshold)
        right = np.take_along_axis(self.hits, leaving[None], axis=0)[0]
        return Point(threshold, shares_of(leaving, len(self.hits)), 100 * float(right.mean()), None)

    def choose(self, max_loss: float) -> float:
        """The least threshold from which on no higher one loses more than ``max_loss`` points against the last head."""
        least = 100 * float(self.hits[-1].mean()) - max_loss - 1e-9
        sound = 1.0
        for threshold in reversed(GRID):
            if self.point(threshold).metric < least:
                break
            sound = threshold
        return sound


def _rising(max_loss: float, held: Held) -> list[float]:
    """Thresholds for ever smaller losses, each once."""
    return list(dict.fromkeys(held.choose(max_loss / 2**k) for k in range(MILDER + 1)))


def leaving_at(sure: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """(E, P) confidences -> (P,): number of the first exit that is sure, or E."""
    over = np.concatenate([sure >= np.float32(threshold), np.ones((1, sure.shape[1]), np.bool_)])
    return over.argmax(axis=0).astype(np.int64)


def shares_of(leaving: NDArray[np.int64], exits: int) -> tuple[float, ...]:
    """Share of the photos that leave at each exit, the end among them."""
    return tuple((np.bincount(leaving, minlength=exits) / max(len(leaving), 1)).tolist())


def with_heads(step: EarlyExit, trained: Trained, context: Context) -> tuple[Trained, Held]:
    """A copy with trained heads, and what heads like them make of held-back training photos.

    What an earlier call with the same network and settings has trained is taken over: it does not depend on the engine.
    """
    settings = {k: v for k, v in asdict(step).items() if k not in ("threshold", "max_loss")}
    key = hashlib.sha256(f"{digest(trained, context.recipe)} {json.dumps(settings)}".encode()).hexdigest()[:12]
    place = (context.shared or context.folder) / f"exits-{key}.npz"
    network = _with_random_heads(step, trained)
    exits: Any = network.model.exits
    if (known := _known(place, exits)) is not None:
        return network, known
    torch.manual_seed(context.recipe.train.seed)
    pooled = look_at(network, context, step.views, quiet=context.quiet)
    held = _held_back(step, pooled, exits)
    for number, head in enumerate(exits.heads):
        fit_head(head, pooled, number, step, np.arange(pooled.photos))
    place.parent.mkdir(parents=True, exist_ok=True)
    state = {f"head.{name}": value.numpy() for name, value in exits.heads.state_dict().items()}
    partial = place.with_suffix(".partial.npz")
    np.savez(partial, confidence=held.confidence, hits=held.hits, **state)
    partial.replace(place)
    return network, held


def _known(place: Path, exits: EarlyExits) -> Held | None:
    """What lies in ``place``, its heads loaded; ``None`` where there is nothing sound."""
    try:
        with np.load(place, allow_pickle=False) as found:
            state = {k.removeprefix("head."): torch.from_numpy(found[k]) for k in found.files if k.startswith("head.")}
            held = Held(found["confidence"], found["hits"])
        exits.heads.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, EOFError):
        return None
    return held


def _with_random_heads(step: EarlyExit, trained: Trained) -> Trained:
    network = copy_of(trained)
    vit: Any = network.model.backbone
    width = vit.embed_dim * (2 if vit.num_prefix else 1)
    entry: dict[str, Any] = {"kind": "early_exits", "after": list(step.exits), "thresholds": [NEVER] * len(step.exits)}
    entry |= {"classes": [len(level.labels) for level in trained.levels], "width": width, "hidden": step.hidden}
    replace_layers(network.model, {"exits": entry})
    return replace(network, model=network.model.eval())


def _held_back(step: EarlyExit, pooled: Pooled, exits: EarlyExits) -> Held:
    """Each photo judged by heads that learned from the other folds."""
    sure, hits = [], []
    truth = pooled.labels[:, -1]
    for number in range(len(exits.after)):
        answers = cross_fitted(exits, pooled, number, step)
        sure.append(confidence(answers).numpy())
        hits.append((answers[-1].argmax(1) == truth).numpy())
    hits.append((pooled.last[-1].argmax(1) == truth).numpy())
    return Held(np.stack(sure), np.stack(hits))


def at_thresholds(network: Trained, thresholds: Sequence[float]) -> Trained:
    """A copy whose exits have these thresholds: :data:`NEVER` passes an exit by, 0 always leaves."""
    result = copy_of(network)
    exits: Any = result.model.exits
    exits.thresholds = tuple(float(x) for x in thresholds)
    return replace(result, model=result.model.eval())


def milliseconds(network: Trained, plain: Trained, context: Context) -> list[float] | None:
    """What leaving at each exit takes, at the end, and in the network without exits: timed in turns, E + 2 figures.

    ``None`` where there is nothing to time with. No photo decides here: each file has thresholds that let every photo
    leave at one exit.
    """
    if context.time is None:
        return None
    exits: Any = network.model.exits
    count, folder = len(exits.after), context.folder / "timing-exits"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        forced = [[NEVER] * k + [0.0] * (count - k) for k in range(count + 1)]
        networks = [*(at_thresholds(network, each) for each in forced), plain]
        files = [built_of(each, context.runtime, folder, f"exit{k}") for k, each in enumerate(networks)]
        return list(context.time([replace(built, varies=False) for built in files]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Cases:
    """What every exit says to the validation photos, in float."""

    network: Trained
    sure: NDArray[np.float32]
    """(E, P)."""
    outputs: list[list[dict[str, NDArray[np.float32]]]]
    """[exit][photo]: outputs as the file gives them; the last head's at the end."""
    truth: list[Any]

    @staticmethod
    @torch.no_grad()
    def of(network: Trained, context: Context) -> _Cases:
        """On the validation photos that files are scored on."""
        recipe, model = context.recipe, network.model
        assert isinstance(model, Classifier)
        assert isinstance(model.exits, EarlyExits)
        found = list(eval_cases(context.data.val, recipe.data, limit=recipe.search.eval_images))
        outputs: list[list[Any]] = [[] for _ in range(len(model.exits.after) + 1)]
        sure = []
        for case in found:
            pixels = torch.from_numpy(np.array(prepare(case.image, network.preprocess)))[None]
            pooled, last = model.on_the_way(normalise(pixels, network.preprocess), model.exits)
            early = model.exits.answers(pooled)
            sure.append([float(confidence(answer)) for answer in early])
            for place, answer in zip(outputs, [*early, last], strict=True):
                place.append(_as_file(network, answer))
        return _Cases(network, np.array(sure, np.float32).T, outputs, [case.truth for case in found])

    def metric(self, leaving: NDArray[np.int64]) -> float:
        """The main metric of photos that leave at these exits."""
        task = task_of(self.network.task.name)
        evaluator = task.evaluator(self.network.levels, "")
        for photo, (number, truth) in enumerate(zip(leaving, self.truth, strict=True)):
            evaluator.update(task.finish(self.outputs[number][photo], self.network.levels), truth)
        return next(m.value for m in evaluator.metrics() if m.name == evaluator.main)

    def forced(self, number: int) -> NDArray[np.int64]:
        """All photos leave at one exit."""
        return np.full(len(self.truth), number)

    def point(self, threshold: float, exit_ms: Sequence[float] | None, *, chosen: bool) -> Point:
        """Shares, metric and mean time at a threshold."""
        leaving = leaving_at(self.sure, threshold)
        shares = shares_of(leaving, len(self.outputs))
        ms = None if exit_ms is None else sum(a * b for a, b in zip(shares, exit_ms[: len(shares)], strict=True))
        return Point(threshold, shares, self.metric(leaving), ms, chosen)


def _as_file(network: Trained, answer: Logits) -> dict[str, NDArray[np.float32]]:
    given = TORCH_TASKS[network.task.name].graph_output(answer, network.preprocess)
    parts: tuple[Tensor, ...] = (given,) if isinstance(given, Tensor) else given
    specs = task_of(network.task.name).outputs(network.levels, network.preprocess, network.task)
    return {spec.name: part.numpy() for spec, part in zip(specs, parts, strict=True)}


def _told(step: EarlyExit, trained: Trained, here: Point, exit_ms: list[float] | None, cases: _Cases) -> str:
    vit: Any = trained.model.backbone  # type: ignore[union-attr]
    blocks = " / ".join(map(str, [*step.exits, vit.block_count]))
    shares = " / ".join(f"{100 * share:.0f}" for share in here.shares)
    text = f"{shares} % of {len(cases.truth)} validation photos leave behind block {blocks}"
    if exit_ms is not None:
        *own, plain = exit_ms
        text += f", which takes {' / '.join(f'{ms:.3g}' for ms in own)} ms (without exits {plain:.3g})"
    return f"{text}; threshold {here.threshold:.3g}, chosen on training photos" if step.threshold is None else text
