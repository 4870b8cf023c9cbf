"""Merge tokens: a ViT goes on with fewer and fewer of them, since many patches of a photo say the same.

ToMe (Bolya et al. 2023, "Token Merging: Your ViT But Faster"): between attention and MLP of a block the ``r`` pairs of
tokens whose keys are most alike become one each, and attention counts a merged token as often as it has patches. It
works without training, and gains some accuracy back with it. ``mode: prune`` drops what the class token attends to
least instead (EViT, Liang et al. 2022, without its fused token). The class token stays in both.

How many tokens go does not depend on the image, so files keep static shapes; which ones go does, and is found without
scattering (:mod:`pocketvit.models.layers.merge`). Choices between tokens that are alike to the last digits may fall
differently in two engines, and int8 makes other choices than float; the gate judges each file by its answers.

Left out: ViTs of timm, linear attention, and whatever needs one token for each patch (restoration, depth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from pocketvit.compress.retrain import Retraining, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError, did_you_mean
from pocketvit.models.layers.attention import gone
from pocketvit.models.layers.blocks import Block, ClassBlock
from pocketvit.models.layers.merge import MODES, MergeBlock, check_count, has_softmax
from pocketvit.models.replaced import Record, replace_layers
from pocketvit.models.trained import Trained, copy_of
from pocketvit.models.vit import ViT
from pocketvit.spec.typed import Range, check_ranges, short

KEEP = 0.5


@dataclass(frozen=True)
class MergeTokens(Retraining):
    """Let tokens go on the way through a ViT; with ``epochs``, retrain with distillation from the network before."""

    epochs: int = 0
    """0, with no ``minutes``, takes the network as it is: ToMe is meant to work so."""
    r: int | None = None
    """So many tokens go in each of the blocks in question."""
    keep: float | None = None
    """In place of ``r``: this share of the patches' tokens is left in the end, and as many go in each block; 0.5 where
    ``r`` is not given either."""
    first_block: int = 0
    """The first block, from 0, that lets tokens go."""
    every: int = 1
    """Of the blocks from there on every so manieth does: fewer choices to compute, each of more tokens."""
    mode: Literal["merge", "prune"] = "merge"
    """Merge tokens that are alike, or drop those that the class token attends to least."""
    proportional: bool = True
    """Attention counts merged tokens by their size. Needed off the shelf, hardly where it is retrained."""
    class_only: bool = True
    """The last block of a ViT whose class token is all that is read computes that token alone: no answer changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {"r": Range(1, 100_000), "keep": Range(0, 1, above=True, below=True)}
        ranges |= {"first_block": Range(0, 127), "every": Range(1, 127)}
        check_ranges("compress.steps.merge_tokens", self, ranges)
        if self.r is not None and self.keep is not None:
            raise UsageError("compress.steps.merge_tokens: r and keep are both given.", "Give one of them.")
        if self.mode not in MODES:
            todo = did_you_mean(self.mode, MODES, f"Take {' or '.join(MODES)}.")
            raise UsageError(f"compress.steps.merge_tokens.mode: {short(self.mode)} is unknown.", todo)


def merge_tokens(step: MergeTokens, trained: Trained, context: Context) -> StepReport:
    """A copy of ``trained`` that lets tokens go, retrained if the step says so; ``trained`` itself stays as it is.

    Returns:
        Its notes hold by block how many tokens go (``gone``) and how many go into the next (``tokens``).

    Raises:
        UsageError: a network without tokens, or whose tokens are all needed; tokens that are merged already; more to go
            than there are; or retraining without data.
    """
    vit = vit_of(trained)
    counts = removals(step, vit)
    changed = copy_of(trained)
    replace_layers(changed.model, record_of(step, vit, counts))
    _check_answers(changed)
    network = retrained(changed, trained, context, step)
    network = replace(network, model=network.model.eval())
    tokens = [vit.num_prefix + vit.grid[0] * vit.grid[1]]
    for count in counts:
        tokens.append(tokens[-1] - count)
    words = "were merged" if step.mode == "merge" else "were dropped"
    told = (
        f"{tokens[0]} tokens became {tokens[-1]}: {tokens[0] - tokens[-1]} {words} in {sum(map(bool, counts))} blocks"
    )
    return StepReport("merge_tokens", asdict(step), network, notes={"gone": counts, "tokens": tokens}, told=told)


def vit_of(trained: Trained) -> ViT:
    """The ViT whose tokens may go. Raises UsageError: there is none, or it has other blocks than are known here."""
    vit, name = getattr(trained.model, "backbone", None), trained.model_spec.name
    if not isinstance(vit, ViT):
        what = f"compress.steps.merge_tokens: {name} has no tokens that could be merged."
        raise UsageError(what, "Leave the step out; it merges tokens of our own ViTs that classify.")
    if getattr(trained.model, "reads_patches", False):
        what = f"compress.steps.merge_tokens: the head of task.name {trained.task.name} reads the token of every patch."
        raise UsageError(what, "Leave the step out; it merges tokens of our own ViTs that classify.")
    if any(isinstance(block, MergeBlock) for block in vit.blocks):
        what = f"compress.steps.merge_tokens: the tokens of this {name} are merged already."
        raise UsageError(what, "Give one such step, or start from the network before.")
    if not all(isinstance(x, nn.Identity) or (isinstance(x, Block) and has_softmax(x)) for x in vit.blocks):
        what = f"compress.steps.merge_tokens: {name} has attention without a softmax, which has no sizes of tokens."
        raise UsageError(what, "Leave the step out for this model.")
    return vit


def removals(step: MergeTokens, vit: ViT) -> list[int]:
    """How many tokens go in each block of the ViT.

    Where the class token alone is read nothing goes in the last block, whose other tokens nobody sees any more.

    Raises UsageError: no block is left to do it in, there is no class token to prune by, or there are too few tokens.
    """
    if step.mode == "prune" and not vit.num_prefix:
        what = "compress.steps.merge_tokens: mode prune goes by the class token, and this ViT has none."
        raise UsageError(what, "Take mode: merge.")
    blocks: Sequence[Any] = list(vit.blocks)
    last = len(blocks) - (1 if vit.num_prefix else 0)
    able = [i for i in range(last) if isinstance(blocks[i], Block) and not gone(blocks[i].attn.qkv)]
    sites = [i for i in able if i >= step.first_block][:: step.every]
    if not sites:
        what = f"compress.steps.merge_tokens.first_block {step.first_block}: no block behind it can let tokens go."
        raise UsageError(what, f"Lower it; the blocks that can are {', '.join(map(str, able)) or 'none'}.")
    patches = vit.grid[0] * vit.grid[1]
    total = patches - max(1, round((step.keep or KEEP) * patches))
    counts = [0] * len(blocks)
    for place, index in enumerate(sites):
        even = total * (place + 1) // len(sites) - total * place // len(sites)
        counts[index] = step.r if step.r is not None else even
    left = patches + vit.num_prefix
    for index, count in enumerate(counts):
        try:
            check_count(count, left, vit.num_prefix, step.mode)
        except UsageError as error:
            what = f"compress.steps.merge_tokens: in block {index}, with {left} tokens left: {error.what}"
            raise UsageError(what, error.todo) from error
        left -= count
    return counts


def record_of(step: MergeTokens, vit: ViT, counts: Sequence[int]) -> Record:
    """What takes the place of which block: those in which tokens go, and behind them those that ask for sizes."""
    record: dict[str, dict[str, Any]] = {}
    weighed = False
    for index, (block, count) in enumerate(zip(vit.blocks, counts, strict=True)):
        if not isinstance(block, Block):
            continue
        end = index == len(counts) - 1 and bool(vit.num_prefix)
        only = type(block) is ClassBlock or (end and step.class_only)
        if count or (weighed and step.proportional):
            settings = {"r": count, "mode": step.mode, "prefix": vit.num_prefix, "proportional": step.proportional}
            record[f"backbone.blocks.{index}"] = {"kind": "merge_block", **settings, "class_only": only}
        elif only:
            record[f"backbone.blocks.{index}"] = {"kind": "class_block"}
        weighed = weighed or (bool(count) and step.mode == "merge")
    return record


@torch.no_grad()
def _check_answers(network: Trained) -> None:
    """Raise UsageError: something on top of the ViT reads a token for each patch."""
    try:
        network.model.eval()(torch.zeros(1, 3, *network.preprocess.size))
    except (RuntimeError, IndexError, AssertionError, ValueError) as error:
        what = f"compress.steps.merge_tokens: {network.model_spec.name} is read patch by patch for this task."
        raise UsageError(what, "Leave the step out for this model.") from error
