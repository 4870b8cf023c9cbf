"""Names of a ViT's tensors in other libraries' files, translated to timm's, which are ours."""

from __future__ import annotations

import re

from pocketvit.models.backbone import State

TORCHVISION = {
    r"class_token": "cls_token",
    r"conv_proj\.": "patch_embed.proj.",
    r"encoder\.pos_embedding": "pos_embed",
    r"encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"(blocks\.\d+)\.ln_(\d)\.": r"\1.norm\2.",
    r"(blocks\.\d+)\.self_attention\.in_proj_": r"\1.attn.qkv.",
    r"(blocks\.\d+)\.self_attention\.out_proj\.": r"\1.attn.proj.",
    r"(blocks\.\d+)\.mlp\.(?:0|linear_1)\.": r"\1.mlp.fc1.",
    r"(blocks\.\d+)\.mlp\.(?:3|linear_2)\.": r"\1.mlp.fc2.",
    r"encoder\.ln\.": "norm.",
    r"heads\.head\.": "head.",
}
"""Beginnings of the names in torchvision's ``vit_*`` (``linear_1``: as its first files have them), in this order."""
_OF_TORCHVISION = "encoder.layers.encoder_layer_0."


def to_timm_names(state: State) -> State:
    """A torchvision ViT's state by timm's names; any other state as it is. The numbers are the same in both."""
    if not any(key.startswith(_OF_TORCHVISION) for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        for pattern, name in TORCHVISION.items():
            key = re.sub(f"^{pattern}", name, key)
        renamed[key] = value
    return renamed
