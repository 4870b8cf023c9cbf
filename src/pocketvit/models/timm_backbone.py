"""Any ``timm:`` model as a backbone: the whole network without its classifier, at the size that is asked for.

Features are what timm's ``features_only`` gives (one map for each stride, before the head's own layers), or the tokens
of ``forward_features`` where a model has no intermediate maps. Nothing is downloaded by building.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.backbone import FeatureKind, Size, State
from pocketvit.models.layers.patch_embed import grid_of
from pocketvit.models.layers.positions import fit_table
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
            self.taps = [i for i, stride in enumerate(every) if stride not in every[i + 1 :]]
            self.strides = tuple(every[i] for i in self.taps)
            self.channels = tuple(int(rows[i]["num_chs"]) for i in self.taps)
        else:
            self.feature_kind, self.taps = "tokens", []
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
        if self.taps:
            return list(self.net.forward_intermediates(image, indices=self.taps, intermediates_only=True))
        return [self.net.forward_features(image)[:, getattr(self.net, "num_prefix_tokens", 0) :]]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, embed_dim)."""
        return self.net(image)

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
        return int(patch.patch_size[0]) if tabled else None  # type: ignore[union-attr]


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
        with _one_try():
            net: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the errors of hub and network libraries have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        what = f"model.weights timm: no pretrained weights of {name} on this disk, and none came ({reason})."
        todo = "Fetch its model.safetensors on another machine and set model.weights: FILE.safetensors."
        raise DataError(what, todo) from error
    return net.state_dict()


@contextmanager
def _one_try() -> Iterator[None]:
    """Ask the hub once whether it is there; where it is not, look on this disk alone instead of trying for a minute."""
    import huggingface_hub
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # as above
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
