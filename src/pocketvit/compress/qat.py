"""Train with quantisation: the network learns with weights and inputs rounded as the int8 file rounds them.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 3: rounding forward, the gradient of what was not rounded backward (0 where a value was cut off). Weights are
symmetric, a scale for each output channel; inputs one asymmetric range for the layer, as ``int8`` of ONNX Runtime and
OpenVINO have them. The network that comes out is a float one whose weights lie on the grid of int8, so every engine's
``int8`` can follow; the one for ONNX Runtime keeps the grid with ``smooth: []`` and ``compensate: false``.

The rounding is torch's own. The layers of torchao 0.18 round inputs by token, which has no counterpart in those files
(it refuses one range for all), and those of NNCF are exported by OpenVINO alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pocketvit.compress.importance import Batches
from pocketvit.compress.latent import chosen_layers, settled, with_latent
from pocketvit.compress.retrain import Retraining, own_folder, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.models.trained import Trained
from pocketvit.spec.typed import Range, check_ranges


@dataclass(frozen=True)
class Qat(Retraining):
    """Retrain with rounded weights and inputs, distilled from the float network."""

    epochs: int = 5
    lr: float = 5e-5
    first: bool = True
    """With the first layer (of a ViT the patch embedding)."""
    last: bool = True
    """With the heads (or the last layer of a network without)."""
    layers: tuple[str, ...] = ()
    """Only layers whose path holds one of these words (``mlp``); empty takes all."""
    least_values: int = 1024
    """Layers with fewer weights stay in float."""
    images: int = 128
    """Training images on which the ranges of inputs are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges("compress.steps.qat", self, {"images": Range(1, 1e6), "least_values": Range(0, 1e9)})


def qat(step: Qat, trained: Trained, context: Context) -> StepReport:
    """A copy whose weights lie on the grid of int8, retrained with inputs rounded too; its layers are plain ones.

    Raises:
        UsageError: no layer is left to round, or there are no data.
    """
    chosen = chosen_layers(
        "qat", trained, first=step.first, last=step.last, words=step.layers, least_values=step.least_values
    )
    grids = input_grids(trained, chosen, Batches(trained, context, step.images))
    latent = with_latent(trained, grids, rounded, rounded_inputs)
    network = settled(retrained(latent, trained, own_folder(context, asdict(step)), step.settings()), grids, rounded)
    notes = {"layers": chosen, "grids": {path: grid.tolist() for path, grid in grids.items()}}
    told = f"{len(chosen)} layers learned with 8-bit weights and inputs; the file is a float one until int8 follows"
    return StepReport("qat", asdict(step), network, notes=notes, told=told)


def rounded(weight: Tensor, _: Tensor) -> Tensor:
    """Each output channel on its grid of 255 steps from ``-max |w|`` to ``max |w|``; rounding it again changes nothing
    but the last bits. The gradient is the weight's own."""
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.dim()))).float() / 127
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def rounded_inputs(x: Tensor, grid: Tensor) -> Tensor:
    """On the 256 steps of a grid (scale, zero point); the gradient is 0 beyond it."""
    scale, zero = grid
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero.to(torch.int32), 0, 255)


@torch.no_grad()
def input_grids(trained: Trained, paths: list[str], batches: Batches) -> dict[str, Tensor]:
    """Scale and zero point (2,) of the inputs of layers, from their least to their largest value on training images;
    0 is on the grid."""
    seen = {path: torch.zeros(2) for path in paths}

    def watch(path: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            low, high = arguments[0].aminmax()
            seen[path] = torch.stack([seen[path][0].minimum(low.float()), seen[path][1].maximum(high.float())])

        return layer.register_forward_pre_hook(look)

    model = trained.model.eval()
    handles = [watch(path, model.get_submodule(path)) for path in paths]
    try:
        for x, _ in batches:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    grids = {}
    for path, (low, high) in seen.items():
        scale = ((high - low) / 255).clamp(min=1e-12)
        grids[path] = torch.stack([scale, (-low / scale).round()])
    return grids
