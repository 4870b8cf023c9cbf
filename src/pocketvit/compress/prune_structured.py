"""Structured pruning: heads, hidden neurons and channels are cut off for real, and what is left learns from the whole.

What goes first is what matters least for what it costs: importance by first-order Taylor on training images
(:mod:`pocketvit.compress.importance`), cost in multiplications (``rank: taylor``) or in measured milliseconds
(``rank: latency``, NetAdapt's table, :mod:`pocketvit.compress.latency`). Latency does not depend on the weights, so the
speed that is wanted is reached, and measured, before anything is retrained.

Left out: heads of channel attention, convolutions outside of residual pairs, and networks of timm, whose layers do not
read their sizes from their weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pocketvit.compress.cuts import MARGIN, first_fast, first_within, order, total, which
from pocketvit.compress.importance import Batches, Observed, hand_over, losses, observe
from pocketvit.compress.latency import compared_with, macs, measure_table
from pocketvit.compress.retrain import Retraining, digest, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.compress.width import narrow_width
from pocketvit.errors import UsageError, did_you_mean
from pocketvit.files import write_json
from pocketvit.models.layers.exits import EarlyExits
from pocketvit.models.narrow import KINDS, Units, find_blocks, find_units, keep_units, remove_block
from pocketvit.models.replaced import replace_layers
from pocketvit.models.trained import Trained, copy_of
from pocketvit.models.vit import ViT
from pocketvit.spec.typed import Range, check_ranges, short

PLAN = "plan.json"


@dataclass(frozen=True)
class Prune(Retraining):
    """Cut off heads, neurons and channels, then retrain with distillation from the network before."""

    speedup: float | None = None
    """Cut until the exported file is so many times faster than that of the network before; 1.5 where ``keep`` is not
    given either."""
    keep: float | None = None
    """Cut until this share of the multiplications of all layers that can be cut is left, without timing."""
    rank: Literal["taylor", "latency"] = "taylor"
    """What goes first: least importance for its multiplications, or for its measured milliseconds."""
    units: tuple[str, ...] = KINDS
    """What is cut: ``heads`` of attention, ``neurons`` of MLPs, ``channels`` between two convolutions of a pair."""
    whole: bool = True
    """Whether all heads or all neurons of a block may go, and its branch with them; of half of the blocks at most."""
    blocks: int = 0
    """So many whole blocks are taken out first: those whose absence raises the loss least."""
    class_only: bool = True
    """The last block of a ViT whose class token is all that is read computes that token alone: no answer changes."""
    width: int | None = None
    """Width of the tokens of a ViT to cut to, by Taylor importance of the channels."""
    multiple: int = 16
    """Neurons and channels go by so many, and a multiple of it is left: processors work on 8 to 32 at a time."""
    reconstruct: bool = True
    """Give what goes to what stays by least squares (He et al. 2017) before retraining."""
    images: int = 256
    """Training images on which importance is taken."""
    rounds: int = 1
    """Cut and retrain in so many rounds, each with its share of the way and of the epochs or minutes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {"speedup": Range(1, 100, above=True), "keep": Range(0, 1, above=True, below=True)}
        ranges |= {"blocks": Range(0, 127), "width": Range(1, 8192), "multiple": Range(1, 1024)}
        check_ranges("compress.steps.prune", self, ranges | {"images": Range(1, 1e6), "rounds": Range(1, 20)})
        if self.speedup is not None and self.keep is not None:
            raise UsageError("compress.steps.prune: speedup and keep are both given.", "Give one of them.")
        for kind in self.units:
            if kind not in KINDS:
                todo = did_you_mean(kind, KINDS, f"Take any of {', '.join(KINDS)}.")
                raise UsageError(f"compress.steps.prune.units: {short(kind)} is unknown.", todo)

    @property
    def goal(self) -> float | None:
        """The speed that is wanted; ``None`` where ``keep`` says when to stop."""
        return 1.5 if self.speedup is None and self.keep is None else self.speedup


def prune(step: Prune, trained: Trained, context: Context) -> StepReport:
    """Cut ``trained`` down and retrain it; ``trained`` itself stays as it is.

    Raises:
        UsageError: nothing can be cut, the speed cannot be reached, or there are no data or nothing to time with.
    """
    if (step.blocks or step.width is not None) and isinstance(getattr(trained.model, "exits", None), EarlyExits):
        what = "compress.steps.prune: early exits look at the blocks and the width of the tokens as they are."
        raise UsageError(what, "Prune with blocks or width before early_exit.")
    network, rounds = trained, []
    for number in range(1, step.rounds + 1):
        cut, said = cut_down(step, network, trained, context, number)
        network = retrained(cut, trained, context, step.settings(step.rounds))
        rounds.append(said)
    network = replace(network, model=network.model.eval())
    before, after = (sum(parameter.numel() for parameter in x.model.parameters()) for x in (trained, network))
    told = f"{before / 1e6:.3g} M parameters became {after / 1e6:.3g} M ({_left_of(step, trained, network)})"
    notes = {"parameters": [before, after], "rounds": rounds}
    return StepReport("prune", asdict(step), network, notes=notes, told=told)


def _left_of(step: Prune, trained: Trained, network: Trained) -> str:
    """Units of each kind that are left, e.g. ``24 of 36 heads``."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for counter, model in ((before, trained.model), (after, network.model)):
        for each in find_units(model, step.units):
            counter[each.kind] += each.count
    return ", ".join(f"{after[kind]} of {count} {kind}" for kind, count in before.items())


def cut_down(
    step: Prune, network: Trained, whole: Trained, context: Context, number: int = 1
) -> tuple[Trained, dict[str, Any]]:
    """A copy of ``network``, the result of the rounds before round ``number`` on ``whole``, cut and not yet retrained.

    The cut of an earlier, killed call with the same network is taken over, so that its retraining goes on.

    Returns:
        The network and what is known of it: units left by layer, the speed measured, the table of milliseconds.
    """
    batches, start = Batches(network, context, step.images), copy_of(network)
    said: dict[str, Any] = {"blocks": drop_blocks(start, step.blocks, batches) if number == 1 else []}
    if step.width is not None and number == 1:
        narrow_width(start, step.width, batches)
    if step.class_only and number == 1:
        said["class_only"] = keep_class_only(start, batches)
    units = find_units(start.model, step.units)
    if not units:
        what = f"{network.model_spec.name} has none of {', '.join(step.units)} that can be cut."
        raise UsageError(what, "Leave out prune; it cuts our own ViTs and restorers.")
    observed = observe(start, units, batches)
    place, settings = context.folder / f"{digest(network)}-{PLAN}", _plain(step) | {"round": number}
    known = _read_plan(place, settings)
    if known is None:
        known = _plan(step, start, whole, units, observed, context, number / step.rounds)
        write_json(place, {**known, "settings": settings})
    result = cut_units(start, units, observed, known["kept"], reconstruct=step.reconstruct)
    left = {each.path: f"{len(kept)} of {each.count} {each.kind}" for each, kept in zip(units, known["kept"])}
    return result, said | {key: value for key, value in known.items() if key != "kept"} | {"left": left}


def _plan(
    step: Prune,
    start: Trained,
    whole: Trained,
    units: Sequence[Units],
    observed: Sequence[Observed],
    context: Context,
    share: float,
) -> dict[str, Any]:
    """Which units are kept ``share`` of the way, and what was measured for it."""
    work = cost = macs(start.model, units, observed)
    found: dict[str, Any] = {}
    if step.rank == "latency":
        table = measure_table(start, units, observed, context)
        cost, found["milliseconds"] = table.cost, table.rows
    removals = order(units, observed, cost, multiple=step.multiple, whole=step.whole)
    if step.goal is not None:
        with compared_with(whole, context) as faster:
            speedup = 1 + (step.goal * MARGIN - 1) * share
            count, found["speedup"] = first_fast(removals, start, units, cost, faster, speedup)
    else:
        reference, every = copy_of(whole), find_units(whole.model, step.units)
        before = total(macs(reference.model, every, observe(reference, every, Batches(whole, context, 1))), every)
        count = first_within(removals, units, work, before * (1 - (1 - (step.keep or 0.0)) * share))
    return found | {"kept": which(units, observed, removals[:count])}


def cut_units(
    start: Trained,
    units: Sequence[Units],
    observed: Sequence[Observed],
    kept: Sequence[Sequence[int]],
    *,
    reconstruct: bool = True,
) -> Trained:
    """A copy of which only the ``kept`` units are left."""
    result = copy_of(start)
    for each, seen, stay in zip(units, observed, kept, strict=True):
        if len(stay) == each.count:
            continue
        if reconstruct:
            hand_over(result.model, each, seen, stay)
        keep_units(result.model, each, stay)
    return result


@torch.no_grad()
def drop_blocks(network: Trained, count: int, batches: Batches) -> list[str]:
    """Take out ``count`` blocks in place, one after the other, always the one whose absence raises the loss least.

    Raises UsageError: there are not that many.
    """
    removed: list[str] = []
    for _ in range(count):
        blocks, rises = find_blocks(network.model), {}
        if len(blocks) < 2:
            raise UsageError(f"compress.steps.prune: {count} blocks cannot be taken out.", "Lower blocks.")
        for path in blocks:
            without = copy_of(network)
            remove_block(without.model, path)
            without.model.eval()
            rises[path] = sum(float(loss) for loss, _ in losses(without, batches))
        removed.append(min(rises, key=rises.__getitem__))
        remove_block(network.model, removed[-1])
    return removed


@torch.no_grad()
def keep_class_only(network: Trained, batches: Batches) -> bool:
    """Let the last block compute the class token alone, in place, where that changes no answer; whether it does."""
    blocks = find_blocks(network.model)
    vit = getattr(network.model, "backbone", None)
    if not blocks or not isinstance(vit, ViT) or not vit.num_prefix:
        return False
    changed = copy_of(network)
    replace_layers(changed.model, {blocks[-1]: {"kind": "class_block"}})
    x, _ = next(iter(batches))
    before = network.model.eval()(x)
    try:
        after = changed.model.eval()(x)
    except (RuntimeError, IndexError, AssertionError, ValueError):
        return False  # something on top reads all tokens
    if not isinstance(before, tuple) or not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(after, before)):
        return False
    replace_layers(network.model, {blocks[-1]: {"kind": "class_block"}})
    return True


def _plain(step: Prune) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(step)))
    return plain


def _read_plan(place: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call with the same settings decided about the same network."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(place.read_text(encoding="utf-8"))
        if found.pop("settings") == settings and found["kept"]:
            return dict(found)
    return None
