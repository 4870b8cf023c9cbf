"""Images to tokens: B batch, C channels, H W pixels, P patch side, N = (H/P)(W/P) tokens, D width."""

from __future__ import annotations

from torch import Tensor, nn

from pocketvit.errors import UsageError


def grid_of(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches. Raises UsageError: the size is not a multiple of the patch."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        what = f"image size {height}x{width} is not a multiple of the patch size {patch_size}."
        raise UsageError(what, f"Take e.g. {height // patch_size * patch_size or patch_size}.")
    return height // patch_size, width // patch_size


class ConvPatchEmbed(nn.Module):
    """Convolution with kernel = stride = P: (B, C, H, W) -> (B, N, D). Parameter names as in timm."""

    def __init__(self, channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, embed_dim, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Embed."""
        return self.proj(image).flatten(2).transpose(1, 2)


class LinearPatchEmbed(nn.Module):
    """Flattened patches (channel, row, column order) through one linear layer: the same map as the convolution."""

    def __init__(self, channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(channels * patch_size**2, embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Embed."""
        (b, c, h, w), p = image.shape, self.patch_size
        patches = image.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        return self.proj(patches.reshape(b, (h // p) * (w // p), c * p * p))


PATCH_EMBEDDINGS = {"conv": ConvPatchEmbed, "linear": LinearPatchEmbed}


def fold_patches(tokens: Tensor, grid: tuple[int, int], patch_size: int, channels: int) -> Tensor:
    """Inverse of the patch order: (B, N, C*P*P) -> (B, C, H, W)."""
    b, (h, w), p = tokens.shape[0], grid, patch_size
    return tokens.reshape(b, h, w, channels, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, channels, h * p, w * p)
