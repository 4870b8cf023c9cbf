"""Dense prediction transformer, DPT (Ranftl et al. 2021), on any encoder: depth, or segmentation with the same decoder.

Tokens behind chosen blocks (``hooks``), or maps of chosen stages, become maps at about 1/4, 1/8, 1/16 and 1/32, which
a RefineNet decoder fuses upwards. Depth Anything (Yang et al. 2024) is the same network on DINOv2, which reads no class
token and normalises what the hooks give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.backbone import Size, State
from pocketvit.models.layers.dense import READS, Decoder, DepthHead, Reassemble, SegmentationHead, on_grid
from pocketvit.models.taps import Tap, Tapped
from pocketvit.models.vit import ViT

ENCODER, LEVELS = "encoder.", 4
Encoder = Callable[[Size, dict[str, Any]], nn.Module]


class DPT(nn.Module):
    """(B, 3, H, W) float32, normalised -> a score for each pixel (B, 1, H, W), or logits (B, classes, H, W).

    Args:
        backbone: makes an encoder from (height, width) and its options: a ViT, a hybrid, or a pyramid of maps.
        image_size: (height, width) that networks with positions are built for, in multiples of the patch.
        backbone_options: over those of the backbone's own (``num_heads``, ``attention``, ``depth``, ...).
        hooks: blocks that are read behind, from 0, in order. None for a transformer: four at even distances.
        stages: maps that are read, finest first: of a pyramid by number (None: its last four), of a hybrid the stages
            of its convolutional part, in front of the hooks.
        read: what becomes of the class token; ignored for maps.
        cut: blocks behind the last hook are removed: they would be computed for nothing.
        hook_norm: what the hooks give goes through the backbone's final norm.
        finest: about the stride of the first level of tokens (4: 1/4 of the image, 8: a decoder of a quarter of the
            work); each further level has twice the stride of the one before.
        reassemble: channels of each level; None: a map's own, and D of tokens over 8, 4, 2 and 1.
        width: channels of the decoder.
        batch_norm: in the decoder's residual units; fusion_bias: biases there (None: where there is no batch norm).
        doubling: see :class:`pocketvit.models.layers.dense.Decoder`; the score then doubles the last result too.
        head: ``depth``, with ``head_width`` channels before its last layer and, with ``projection``, one convolution
            more in front; or ``segmentation`` into ``classes``, with ``dropout``.

    Raises UsageError: an unknown name or option, a level that does not exist, a class token that is not there.
    """

    feature_kind = "maps"

    def __init__(
        self,
        *,
        backbone: Encoder,
        image_size: int | Size = 384,
        backbone_options: dict[str, Any] | None = None,
        hooks: Sequence[int] | None = None,
        stages: Sequence[int] | None = None,
        read: Literal["ignore", "add", "project"] = "project",
        cut: bool = True,
        hook_norm: bool = False,
        finest: int = 4,
        reassemble: Sequence[int] | None = None,
        width: int = 256,
        batch_norm: bool = False,
        fusion_bias: bool | None = None,
        doubling: bool = False,
        head: Literal["depth", "segmentation"] = "depth",
        classes: int = 1,
        head_width: int = 32,
        dropout: float = 0.1,
        projection: bool = False,
    ) -> None:
        super().__init__()
        size, inner = (image_size, image_size) if isinstance(image_size, int) else image_size, backbone_options or {}
        if "image_size" in inner:
            raise UsageError("backbone_options has image_size, which is the whole network's.", "Leave it out there.")
        self.encoder = _tapped(backbone(size, inner))
        self.stages, self.hooks = _levels(self.encoder, stages, hooks)
        taps = self.encoder.taps(self.stages, self.hooks)
        if cut:
            self.encoder.cut(self.stages, self.hooks, hook_norm)
        self.read, self.hook_norm, self.doubling = _read(read, taps), hook_norm, doubling
        self.any_size, self.last = self.encoder.any_size, {tap.stride: i for i, tap in enumerate(taps)}
        self.strides = tuple(sorted(self.last))
        self.grids = [tap.grid for tap in taps]
        given = _widths(reassemble, taps)
        self.reassemble = nn.ModuleList(_level(tap, c, i, read, finest) for i, (tap, c) in enumerate(zip(taps, given)))
        bias = not batch_norm if fusion_bias is None else fusion_bias
        self.decoder = Decoder(given, width, batch_norm, bias, doubling)
        heads: dict[str, Callable[[], nn.Module]] = {
            "depth": partial(DepthHead, width, head_width, projection),
            "segmentation": partial(SegmentationHead, width, classes, dropout),
        }
        if head not in heads:
            raise UsageError(f"head {head!r} is unknown.", f"Known: {', '.join(heads)}.")
        self.answers, self.head, self._dropout, self._whole = head, heads[head](), dropout, True
        self._channels, self._prefix = tuple(tap.channels for tap in taps), tuple(tap.prefix for tap in taps)

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of what the encoder gives at each stride."""
        return tuple(self._channels[self.last[stride]] for stride in self.strides)

    @property
    def embed_dim(self) -> int:
        """Width of the coarsest."""
        return self.channels[-1]

    @property
    def hooked(self) -> list[str]:
        """Paths of the blocks that are read, as ``named_modules`` has them; none of a pyramid's."""
        inside = "blocks" if isinstance(self.encoder, ViT) else "net.blocks"
        return [f"{ENCODER}{inside}.{number}" for number in self.hooks]

    def _taps(self, image: Tensor) -> list[Tensor]:
        return self.encoder.tapped(image, self.stages, self.hooks, self.hook_norm)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the last map (B, C, h, w) that the encoder gives at each stride, class tokens left out."""
        every = self._taps(image)
        maps = [x if grid is None else on_grid(x[:, n:], grid) for x, grid, n in zip(every, self.grids, self._prefix)]
        return [maps[self.last[stride]] for stride in self.strides]

    def fused(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> what the decoder gives the head: (B, width, h, w), about half the image's size."""
        return self.decoder([layer(x) for layer, x in zip(self.reassemble, self._taps(image), strict=True)])

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W), or (B, classes, H, W); after :meth:`give_classes` of the decoder's size."""
        fused = self.fused(image)
        whole = fused if self.doubling or not self._whole else image
        scale = 2 if self.doubling and self._whole else 1
        return self.head(fused, (scale * int(whole.shape[-2]), scale * int(whole.shape[-1])))

    def give_classes(self, count: int) -> None:
        """Give logits of ``count`` classes from now on, (B, count, h, w) at the decoder's size: a segmentation head in
        the place of the head, with random weights."""
        width = int(self.decoder.fusion[0].get_submodule("project").get_parameter("weight").shape[0])
        self.answers, self.head = "segmentation", SegmentationHead(width, count, self._dropout)
        self._whole, self.renewed = False, ("head.",)

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """The encoder's state for ``size``; all the rest is the same at any.

        The state of a bare encoder (a classifier's, with timm's names) is understood: our decoder goes on top of it.
        What it holds behind the last hook is left as it is, for the caller to leave out.
        """
        if not any(key.startswith(ENCODER) for key in state):
            own = {key: value for key, value in self.state_dict().items() if not key.startswith(ENCODER)}
            state = own | {ENCODER + key: value for key, value in state.items()}
        inner = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
        rest = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
        return rest | {ENCODER + key: value for key, value in self.encoder.resize_state(inner, size).items()}


def _tapped(encoder: nn.Module) -> Any:
    if not hasattr(encoder, "tapped"):
        what = f"a {type(encoder).__name__} cannot be read inside, as a DPT does."
        raise UsageError(what, "Take a ViT or timm:<name> in model.options.backbone.")
    return encoder


def _levels(
    encoder: Tapped, stages: Sequence[int] | None, hooks: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stages and hooks, with what is left open filled in."""
    blocks = encoder.block_count
    if hooks is None and blocks:
        wanted = max(1, LEVELS - len(stages or ()))
        hooks = [blocks * (i + 1) // wanted - 1 for i in range(wanted)]
    if stages is None and not blocks:
        count = len(encoder.strides)
        stages = range(max(0, count - LEVELS), count)
    stages, hooks = tuple(stages or ()), tuple(hooks or ())
    if blocks and not hooks:
        raise UsageError("hooks is empty: no block of the transformer would be used.", "Name blocks in hooks.")
    if not 1 < len(stages) + len(hooks) <= 6:
        what = f"stages {stages} and hooks {hooks} make {len(stages) + len(hooks)} levels."
        raise UsageError(what, "Name two to six, four as published, in model.options.")
    return stages, hooks


def _read(read: str, taps: Sequence[Tap]) -> str:
    if read not in READS:
        raise UsageError(f"read {read!r} is unknown.", f"Known: {', '.join(READS)}.")
    if read != "ignore" and any(tap.grid is not None and not tap.prefix for tap in taps):
        what = f"read {read!r} needs a class token, and this backbone has none."
        raise UsageError(what, "Set model.options.read: ignore, or pool: cls in backbone_options.")
    return read


def _widths(reassemble: Sequence[int] | None, taps: Sequence[Tap]) -> tuple[int, ...]:
    """Channels of each level."""
    if reassemble is None:
        halvings = range(len(taps) - 1, -1, -1)
        return tuple(tap.channels if tap.grid is None else tap.channels // 2**n for tap, n in zip(taps, halvings))
    if len(reassemble) != len(taps):
        what = f"reassemble {tuple(reassemble)} has {len(reassemble)} entries for {len(taps)} levels."
        raise UsageError(what, "Correct model.options.reassemble.")
    return tuple(reassemble)


def _level(tap: Tap, channels: int, number: int, read: str, finest: int) -> nn.Module:
    """From what the encoder gives to a map of ``channels``: tokens at that power of two of their grid which brings the
    level nearest to its stride, maps as they are, but for a 1x1 convolution where they are to be of another width."""
    if tap.grid is not None:
        return Reassemble(tap, channels, Fraction(2) ** round(math.log2(tap.stride / finest) - number), read)
    return nn.Identity() if tap.channels == channels else nn.Conv2d(tap.channels, channels, 1)
