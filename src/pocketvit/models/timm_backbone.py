"""Any ``timm:`` model as a backbone: the whole network without its classifier, at the size that is asked for.

Features are what timm's ``features_only`` gives (one map for each stride, before the head's own layers), or the tokens
of ``forward_features`` where a model has no intermediate maps. Nothing is downloaded by building.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.backbone import FeatureKind, Size, State
from pocketvit.models.hf import one_try
from pocketvit.models.layers.patch_embed import grid_of
from pocketvit.models.layers.positions import fit_table
from pocketvit.models.taps import Tap, check_hooks
from pocketvit.spec.typed import short

NET = "net."


class TimmBackbone(nn.Module):
    """(B, 3, H, W) -> (B, embed_dim). A :class:`~pocketvit.models.backbone.Backbone`, by timm's name of the model.

    ``image_size`` (height, width) is given to models that depend on it, ``options`` to timm's constructor.
    Raises UsageError: there is no such model, or it takes no such option, or no images of that size.
    """

    def __init__(self, name: str, *, image_size: Size, **options: Any) -> None:
        super().__init__()
        self.net: Any = _create(name, image_size, options)
        fixed = self.net.pretrained_cfg.get("fixed_input_size")
        self.any_size = not fixed or bool(options.get("dynamic_img_size"))
        if patch := self._patch():
            grid_of(image_size, patch)  # timm says so only when the first image comes
        self.feature_kind: FeatureKind = "maps"
        if hasattr(self.net, "forward_intermediates"):
            info = self.net.feature_info
            rows = info if isinstance(info, list) else info.info
            every = [int(row["reduction"]) for row in rows]
            self.last = [i for i, stride in enumerate(every) if stride not in every[i + 1 :]]
            self.strides = tuple(every[i] for i in self.last)
            self.channels = tuple(int(rows[i]["num_chs"]) for i in self.last)
        else:
            self.feature_kind, self.last = "tokens", []
            with torch.no_grad():
                tokens = self.features(torch.zeros(1, 3, *image_size))[0]
            self.strides = (round((image_size[0] * image_size[1] / tokens.shape[1]) ** 0.5),)
            self.channels = (int(tokens.shape[2]),)
        self.register_load_state_dict_pre_hook(_accept_bare_names)

    @property
    def embed_dim(self) -> int:
        """Width of the pooled feature, after those layers of the head that come before its classifier."""
        return int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the last map (B, C, h, w) of each stride, or [(B, N, D)]."""
        if self.last:
            return list(self.net.forward_intermediates(image, indices=self.last, intermediates_only=True))
        return [self.net.forward_features(image)[:, getattr(self.net, "num_prefix_tokens", 0) :]]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, embed_dim)."""
        return self.net(image)

    @property
    def _transformer(self) -> bool:
        """A plain or hybrid ViT: blocks of tokens of one width, which can be read one by one."""
        return isinstance(self.net, VisionTransformer)

    @property
    def block_count(self) -> int:
        """Blocks behind which tokens can be read: those of a plain or hybrid ViT."""
        return len(self.net.blocks) if self._transformer else 0

    def _stages(self) -> list[dict[str, Any]]:
        """Width and stride of each map that can be read: of the pyramid, or of a hybrid's convolutional part."""
        if not self._transformer:
            return [{"num_chs": c, "reduction": s} for c, s in zip(self.channels, self.strides)] if self.last else []
        part = getattr(self.net.patch_embed, "backbone", None)
        return list(part.feature_info)[1:] if isinstance(part, ResNetV2) else []  # the first is its stem

    def taps(self, stages: Sequence[int], hooks: Sequence[int]) -> tuple[Tap, ...]:
        """See :class:`pocketvit.models.taps.Tapped`."""
        rows, net = self._stages(), self.net
        check_hooks(stages, len(rows), hooks, self.block_count)
        maps = tuple(Tap(int(rows[i]["num_chs"]), int(rows[i]["reduction"])) for i in stages)
        if not hooks:
            return maps
        patch, grid = int(net.patch_embed.feat_ratio()), tuple(net.patch_embed.grid_size)
        return maps + (Tap(int(net.embed_dim), patch, grid, int(net.num_prefix_tokens)),) * len(hooks)

    def tapped(self, image: Tensor, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> list[Tensor]:
        """(B, 3, H, W) -> maps of ``stages``, then (B, prefix + N, D) behind each block of ``hooks``."""
        net = self.net
        if not self._transformer:
            indices = [self.last[i] for i in stages]
            return list(net.forward_intermediates(image, indices=indices, intermediates_only=True))
        found: list[Tensor] = []
        if stages:
            map_bchw, found = net.patch_embed.backbone.forward_intermediates(image, indices=[i + 1 for i in stages])
            x = net.patch_embed.proj(map_bchw).flatten(2).transpose(1, 2)
        else:
            x = net.patch_embed(image)
        x = net.norm_pre(net.patch_drop(net._pos_embed(x)))
        for number, block in enumerate(net.blocks):
            x = block(x)
            if number in hooks:
                found.append(net.norm(x) if norm else x)
        return found

    def cut(self, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> None:
        """Remove what stands behind the last tap; a pyramid's strides are those that are left."""
        if self._transformer:
            self.net.prune_intermediate_layers(list(hooks), prune_norm=not norm, prune_head=True)
        else:
            self.net.prune_intermediate_layers([self.last[i] for i in stages], prune_norm=True, prune_head=True)
            kept = max(stages) + 1
            self.last, self.strides, self.channels = self.last[:kept], self.strides[:kept], self.channels[:kept]

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """Position tables for ``size``; timm's own names are understood. Nothing else is changed."""
        state = {key if key.startswith(NET) else NET + key: value for key, value in state.items()}
        table, patch = f"{NET}pos_embed", self._patch()
        if table in state and patch:
            own: Size = tuple(self.net.patch_embed.grid_size)
            prefix = int(self.net.pos_embed.shape[1]) - own[0] * own[1]
            state[table] = fit_table(state[table], own, grid_of(size, patch) if size else own, prefix)
        return state

    def _patch(self) -> int | None:
        """Side of a patch where positions are a table (1, tokens, D) over the patches."""
        patch: Any = getattr(self.net, "patch_embed", None)
        table = getattr(self.net, "pos_embed", None)
        tabled = isinstance(table, Tensor) and table.dim() == 3 and getattr(patch, "grid_size", None) is not None
        # A hybrid's patches are of its map: feat_ratio counts pixels.
        return int(patch.feat_ratio() if hasattr(patch, "feat_ratio") else patch.patch_size[0]) if tabled else None


def _create(name: str, image_size: Size, options: dict[str, Any]) -> Any:
    """timm's network without classifier, with random weights."""
    if "pretrained" in options:
        raise UsageError("model.options: pretrained is no option.", "Set model.weights: timm.")
    _known(name)
    try:
        try:
            return timm.create_model(name, num_classes=0, img_size=image_size, **options)
        except TypeError:  # it has no such argument: convolutions take any size
            net: Any = timm.create_model(name, num_classes=0, **options)
    except Exception as error:  # hundreds of constructors: what they say to options has no common base
        reason = " ".join(str(error).split())[:200]
        what = f"timm cannot build {short(name)}: {reason}."
        raise UsageError(what, "Correct model.options or preprocess.size.") from error
    fixed = tuple(net.pretrained_cfg["input_size"][1:])
    if net.pretrained_cfg.get("fixed_input_size") and fixed != tuple(image_size):
        raise UsageError(f"timm:{name} takes {fixed[0]}x{fixed[1]} images alone.", f"Set preprocess.size: {fixed}.")
    return net


def _known(name: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:3]) or "see timm.list_models()"
        raise UsageError(f"timm cannot build {short(name)}: there is no such model.", f"Perhaps: {near}.")


def _accept_bare_names(module: nn.Module, state: State, prefix: str, *_: Any) -> None:
    """Checkpoints written before the network had a wrapper name its tensors without ``net.``."""
    for key in [k for k in state if k.startswith(prefix) and not k.startswith(prefix + NET)]:
        state[prefix + NET + key.removeprefix(prefix)] = state.pop(key)


def pretrained_state(name: str) -> State:
    """timm's pretrained weights of a model, with its classifier: from this disk, or fetched where the hub answers.

    Raises UsageError: timm has no such model. DataError: the weights are not on this disk and cannot be fetched.
    """
    _known(name)
    try:
        with one_try():
            net: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the errors of hub and network libraries have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        what = f"model.weights timm: no pretrained weights of {name} on this disk, and none came ({reason})."
        todo = "Fetch its model.safetensors on another machine and set model.weights: FILE.safetensors."
        raise DataError(what, todo) from error
    return net.state_dict()
