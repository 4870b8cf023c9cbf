"""Checkpoints of transformers' DPT and Depth Anything by our names: nothing missing, nothing left over.

Read are ``DPTForDepthEstimation`` and ``DPTForSemanticSegmentation`` (plain, hybrid, and on DINOv2) and
``DepthAnythingForDepthEstimation``, by the names that their published files and ``save_pretrained`` have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pocketvit.errors import DataError, UsageError
from pocketvit.models.backbone import State
from pocketvit.models.dpt import DPT, ENCODER
from pocketvit.models.layers.dense import SegmentationHead
from pocketvit.models.vit import ViT
from pocketvit.spec.typed import short

Names = Mapping[str, str]

ENCODERS: Names = {
    r"embeddings\.(cls_token|mask_token)": r"\1",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.(?:patch_embeddings\.)?projection\.": "patch_embed.proj.",
    r"embeddings\.backbone\.bit\.embedder\.convolution\.": "patch_embed.backbone.stem.conv.",
    r"embeddings\.backbone\.bit\.embedder\.norm\.": "patch_embed.backbone.stem.norm.",
    r"embeddings\.backbone\.bit\.encoder\.stages\.(\d+)\.layers\.": r"patch_embed.backbone.stages.\1.blocks.",
    r"encoder\.layer\.(\d+)\.": r"blocks.\1.",
    r"(blocks\.\d+)\.layernorm_before\.": r"\1.norm1.",
    r"(blocks\.\d+)\.layernorm_after\.": r"\1.norm2.",
    r"(blocks\.\d+)\.attention\.attention\.": r"\1.attn.",
    r"(blocks\.\d+)\.attention\.output\.dense\.": r"\1.attn.proj.",
    r"(blocks\.\d+)\.intermediate\.dense\.": r"\1.mlp.fc1.",
    r"(blocks\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
    r"(blocks\.\d+)\.layer_scale(\d)\.lambda1": r"\1.ls\2.gamma",
    r"layernorm\.": "norm.",
}
"""Beginnings of the names behind ``dpt.`` or ``backbone.``, in this order."""
_FUSION = r"neck\.fusion_stage\.layers\.(\d+)\."
DECODER: Names = {
    r"neck\.reassemble_stage\.readout_projects\.(\d+)\.0\.": r"reassemble.\1.read.",
    r"neck\.reassemble_stage\.layers\.(\d+)\.projection\.": r"reassemble.\1.project.",
    r"neck\.reassemble_stage\.layers\.(\d+)\.resize\.": r"reassemble.\1.resize.",
    r"neck\.convs\.": "decoder.enter.",
    _FUSION + r"projection\.": r"decoder.fusion.\1.project.",
    _FUSION + r"residual_layer(\d)\.convolution(\d)\.": r"decoder.fusion.\1.unit\2.conv\3.",
    _FUSION + r"residual_layer(\d)\.batch_norm(\d)\.": r"decoder.fusion.\1.unit\2.norm\3.",
    r"head\.projection\.": "head.enter.",
}
DEPTH: Names = {r"head\.head\.0\.": "head.conv1.", r"head\.head\.2\.": "head.conv2.", r"head\.head\.4\.": "head.conv3."}
SEGMENTATION: Names = {
    r"head\.head\.0\.": "head.conv1.",
    r"head\.head\.1\.": "head.norm.",
    r"head\.head\.4\.": "head.conv2.",
}
UNUSED = (r"encoder\.(?:net\.)?mask_token", r"decoder\.fusion\.0\.unit1\.", r"auxiliary_head\.")
"""What their files hold and no depth or label is computed from: for pretraining, for training, for nothing."""
_PARTS = ("query", "key", "value")


def translated(config: Mapping[str, Any], state: State, model: DPT, source: str) -> State:
    """The state of a checkpoint by the names of ``model``; positions are of the checkpoint's size.

    What is behind the model's last hook is kept, for the caller to leave out. Raises DataError: another kind of model.
    UsageError: a setting that no shape shows is another, or a tensor has no place in the model (the first is named).
    """
    check_settings(config, model, source)
    plain = isinstance(model.encoder, ViT)
    into = ENCODER if plain else f"{ENCODER}net."
    unused = UNUSED if model.hook_norm else (*UNUSED, r"encoder\.(?:net\.)?norm\.")
    named, origin = State(), dict[str, str]()
    for key, value in state.items():
        name = _renamed(key, into, SEGMENTATION if isinstance(model.head, SegmentationHead) else DEPTH)
        if not any(re.match(pattern, name) for pattern in unused):
            named[name], origin[name] = value, key
    for name in [x for x in named if x.endswith((".query.weight", ".query.bias"))]:
        parts = [name.replace(".query.", f".{part}.") for part in _PARTS]
        if all(part in named for part in parts):
            joined = name.replace(".query.", ".qkv.")
            named[joined], origin[joined] = torch.cat([named.pop(part) for part in parts]), origin[name]
    for name in [x for x in named if re.match(r"reassemble\.\d+\.read\.", x)]:
        for new, part in _split_read(name, named.pop(name)).items():
            named[new], origin[new] = part, origin[name]
    own, behind = model.state_dict(), re.compile(rf"{re.escape(into)}blocks\.(\d+)\.")
    for name in named:
        block = behind.match(name)
        if name not in own and not (block and int(block[1]) > max(model.hooks)):
            what = f"{source}: has {origin[name]}, which this model has no place for."
            raise UsageError(what, f"Choose model.name and model.options as its config.json has them{_hint(config)}.")
    return named


def _renamed(key: str, into: str, head: Names) -> str:
    """One name by ours; the head's layers count differently in theirs."""
    inside = re.match(r"(?:dpt|backbone)\.(?=embeddings|encoder|layernorm)", key)
    name, tables = (key[inside.end() :], [ENCODERS]) if inside else (key, [DECODER, head])
    for table in tables:
        for pattern, new in table.items():
            name = re.sub(f"^{pattern}", new, name)
    return into + name if inside else name


def _split_read(name: str, value: Tensor) -> State:
    """Their one layer on token and class token side by side, as our two."""
    stem, kind = name.rsplit("read.", 1)
    if kind == "bias":
        return {f"{stem}read_tokens.bias": value}
    width = value.shape[1] // 2
    halves = {"tokens": value[:, :width], "class": value[:, width:]}
    return {f"{stem}read_{part}.{kind}": half.clone() for part, half in halves.items()}


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says that no shape shows; absent entries have transformers' defaults, None is unknown.

    Raises DataError: it describes another kind of model, or one with layers that ours has not.
    """
    kind, inner = config.get("model_type"), config.get("backbone_config") or {}
    if kind not in ("dpt", "depth_anything"):
        what = f"config.json: model_type {short(kind)} is no DPT."
        raise DataError(what, "Give a checkpoint of transformers' DPT or Depth Anything.")
    hybrid = bool(config.get("is_hybrid", False))
    dino = kind == "depth_anything" or (bool(inner) and not hybrid)
    if (dino and inner.get("model_type", "dinov2") != "dinov2") or inner.get("use_swiglu_ffn", False):
        what = f"config.json: backbone {short(inner.get('model_type'))} has layers that ours has not."
        raise DataError(what, "Read are ViT, hybrid ResNet ViT and DINOv2 with a plain MLP.")
    vit = inner if dino else config
    maps = 2 if hybrid else 0  # levels in front that are maps: what is said of their tokens is not used
    factors = list(config.get("reassemble_factors", FACTORS))
    if (act := vit.get("hidden_act", "gelu")) != "gelu" or factors[maps:] != FACTORS[maps:]:
        what = f"config.json: hidden_act {short(act)} or reassemble_factors are others than ours (gelu, {FACTORS})."
        raise DataError(what, "Such checkpoints are not read.")
    hooks = config.get("backbone_out_indices", [2, 5, 8, 11])
    if dino:
        named = [int(str(name).removeprefix("stage")) for name in inner.get("out_features") or ()]
        hooks = [index - 1 for index in inner.get("out_indices") or named] or None
    return {
        "stages": (0, 1) if hybrid else (),
        "hooks": None if hooks is None else tuple(hooks)[maps:],
        "num_heads": int(vit.get("num_attention_heads", 12)),
        "read": "ignore" if kind == "depth_anything" else config.get("readout_type", "project"),
        "hook_norm": dino and bool(inner.get("apply_layernorm", True)),
    }


FACTORS = [4, 2, 1, 0.5]


def check_settings(config: Mapping[str, Any], model: DPT, source: str) -> None:
    """Raise UsageError: a setting that no shape shows differs from the model's; the first is named.

    The epsilon of the norms is not held: in trained networks, whose tokens vary by about 1, 1e-6 and 1e-12 are alike.
    """
    own = {"stages": model.stages, "hooks": model.hooks, "read": model.read, "hook_norm": model.hook_norm}
    own["num_heads"] = heads_of(model)
    for name, wanted in settings_of(config).items():
        if wanted is not None and own[name] != wanted:
            shown = list(wanted) if isinstance(wanted, tuple) else wanted
            what = f"{source}: its config.json says {name} {shown}, the model has {_shown(own[name])}."
            where = "backbone_options.num_heads" if name == "num_heads" else name
            raise UsageError(what, f"Set model.options.{where}: {shown}{_hint(config)}.")


def heads_of(model: DPT) -> int:
    """Attention heads of the first block; 0 where there are no blocks."""
    path = next(iter(model.hooked), "")
    attention: Any = model.get_submodule(path).attn if path else None
    return int(attention.qkv.weight.shape[0]) // (3 * int(attention.head_dim)) if attention is not None else 0


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _hint(config: Mapping[str, Any]) -> str:
    """The row that such a config is nearest to."""
    if config.get("model_type") == "depth_anything":
        return ", from model.name: depth_anything_small"
    if config.get("is_hybrid"):
        return ", from model.name: dpt_hybrid"
    return f", from model.name: {'dpt_large' if config.get('hidden_size', 768) == 1024 else 'dpt_base'}"


def answer_of(config: Mapping[str, Any]) -> str:
    """What the published network makes of the score, in words: our tasks have their own activation."""
    if config.get("model_type") == "depth_anything" and config.get("depth_estimation_type") == "metric":
        return f"its depth is sigmoid(score) x {config.get('max_depth', 1)} m"
    return "its inverse depth is ReLU(score)" if "Semantic" not in str(config.get("architectures")) else "its labels"
