import pytest
import torch
import torch.nn.functional as F

from pocketvit.errors import UsageError
from pocketvit.models import VARIANTS, build
from pocketvit.models.layers.attention import ChannelAttention, WindowAttention
from pocketvit.models.restorer import Restorer

SMALL = [name for name, row in VARIANTS.items() if row.gives == "image" and "global" not in name]


@pytest.mark.parametrize("name", SMALL)
def test_every_restorer_starts_at_the_identity_or_keeps_the_shape(name: str) -> None:
    model = build(name, (48, 64)).eval()
    image = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        restored = model(image)
    assert restored.shape == image.shape
    if name != "dense_ffdnet":
        torch.testing.assert_close(restored, image)


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 50)])
def test_any_image_size_is_padded_inside(size: tuple[int, int]) -> None:
    model = build("restorer_xs", (64, 64)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_window_attention_stays_inside_its_window() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(32, 1, window=4).eval()
    x = torch.randn(1, 32, 8, 8)
    y = x.clone()
    y[:, :, 0, 0] += 1
    with torch.inference_mode():
        change = (attention(x) - attention(y)).abs().sum(1)[0]
    assert (change[:4, :4] > 0).all()
    assert change[4:].sum() == 0
    assert change[:, 4:].sum() == 0


def test_channel_attention_is_the_transposed_softmax() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(8, 2).eval()
    x = torch.randn(1, 8, 4, 6)
    q, k, v = attention.qkv(x).view(3, 2, 4, 24)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
    expected = x + attention.proj((scores.softmax(-1) @ v).view(1, 8, 4, 6))
    torch.testing.assert_close(attention(x), expected)


def test_options_are_checked_and_used() -> None:
    with pytest.raises(UsageError, match="one entry for each"):
        Restorer(widths=(16, 32), encoder=(1, 1))
    with pytest.raises(UsageError, match="unknown block 'x'"):
        Restorer(bottleneck="rx")
    wide = build(
        "restorer_s", (64, 64), {"widths": [16, 24], "encoder": [2], "decoder": [1], "bottleneck": "rc", "unshuffle": 4}
    )
    assert wide.multiple == 8
    assert wide.stem.in_channels == 48
    assert len(wide.encoder[0]) == 2


def test_the_global_decoder_makes_all_pixels_from_the_class_token() -> None:
    model = build(
        "vit_restorer_base_global", (16, 32), {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    ).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 3, 16, 32)).shape == (2, 3, 16, 32)
    assert model.decoder_proj.out_features == 3 * 16 * 32
