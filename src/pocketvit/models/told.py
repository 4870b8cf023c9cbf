"""A restorer that is told how strong the noise is, by an estimator of its own: blind from outside.

A blind network takes noise that looks like texture for texture. Told a level it does not have to decide (FFDNet, Zhang
et al. 2018), and an estimate that errs upwards leaves less noise than one that errs downwards (CBDNet, Guo et al. 2019,
section 3.4). While it is trained it is told the truth, and the estimator learns to say the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.models.backbone import Size, State
from pocketvit.models.restorer import Restorer, added, padded

CELL = 8
"""Side in pixels of the squares that have one noise level."""
SCALE = 5.0
"""Levels are a few hundredths of the range; the network gets them so many times larger."""
LEAST = 0.5 / 255
"""Standard deviation below which levels are not told apart: rounding to 8 bits."""


class LevelEstimator(nn.Module):
    """(B, 3, H, W), multiples of 8, to the log of the noise level of each cell (B, 1, H / 8, W / 8).

    Convolutions see the neighbourhood, the mean over the whole image what all of it has in common.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(48, width, 3, 1, 1)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.context = nn.Linear(2 * width, 2 * width)
        self.mix = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.out = nn.Conv2d(2 * width, 1, 1)
        nn.init.constant_(self.out.bias, -3.5)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Estimate."""
        z = F.relu(self.down(F.relu(self.first(F.pixel_unshuffle(image, 4)))))
        z = F.relu(self.mix(z) + self.context(z.mean((2, 3)))[:, :, None, None])
        return self.out(z)  # type: ignore[no-any-return]


class ToldRestorer(Restorer):
    """:class:`Restorer` with a noise level beside the image, estimated unless it is given.

    ``boldness`` multiplies the estimate: above 1 it cleans more than the estimate asks for.
    """

    def __init__(self, *, boldness: float = 1.0, estimator_width: int = 32, **options: Any) -> None:
        super().__init__(**options)
        if self.multiple % CELL or self.unshuffle > CELL:
            raise ValueError(f"unshuffle and widths must make a multiple of {CELL} pixels, not {self.multiple}")
        self.boldness = boldness
        self.estimator = LevelEstimator(estimator_width)
        self.told = nn.Conv2d(1, self.channels[0], 1)
        nn.init.zeros_(self.told.weight)  # begins as the network without it, whose weights may be loaded
        nn.init.zeros_(self.told.bias)  # type: ignore[arg-type]

    def features(self, image: Tensor, level: Tensor | None = None) -> list[Tensor]:
        """As :class:`Restorer`; ``level``: standard deviation in [0, 1] of each cell (B, 1, H / 8, W / 8)."""
        image = padded(image, self.multiple)
        if level is None:
            level = torch.exp(self.estimator(image)) * self.boldness
        repeats = CELL // self.unshuffle
        fine = F.pixel_shuffle((level * SCALE).expand(-1, repeats**2, -1, -1), repeats)
        z = self.stem(F.pixel_unshuffle(image, self.unshuffle)) + self.told(fine)
        return self.levels_of(z)

    def forward(self, image: Tensor, level: Tensor | None = None) -> Any:
        """Restore; where a level is given (training) also the log of the estimate and of what was given."""
        residual = self.residual(self.features(image, level))
        restored = added(image, residual, self.multiple)
        if level is None:
            return restored
        return restored, self.estimator(padded(image, self.multiple)), torch.log(level)

    def true_level(self, image: Tensor, truth: Tensor) -> Tensor:
        """Noise level of each cell: root mean square of the difference within three by three cells."""
        squares = (image - truth).square().mean(1, keepdim=True)
        squares = F.avg_pool2d(padded(squares, self.multiple), CELL)
        squares = F.avg_pool2d(F.pad(squares, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return (squares + LEAST**2).sqrt()

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """As it is; that of a plain restorer gets what it lacks from this network."""
        own = {key: value for key, value in self.state_dict().items() if key.startswith(("estimator.", "told."))}
        return state if any(key in state for key in own) else state | own
